"""Malformed PubTator: a reason with file and line, in quarantine or as an error; never a traceback, never silence."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from corpus_builders import ABSTRACT, TITLE, pubtator
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_pubtator import CDR_TRAIN, read_text

from bioie_ray.config.steps import PrepareSettings
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.formats.pubtator import PubTatorReader
from bioie_ray.corpora.prepare import check_quarantine, iter_corpus, summarise
from bioie_ray.corpora.reading import Rejected, SourceError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = pubtator("100")


def rejected(folder: Path, bad: str | bytes) -> Rejected:
    """The one reject of a file whose other two documents are kept."""
    bad = bad.encode() if isinstance(bad, str) else bad
    first, reject, last = read_text(folder, GOOD.encode() + bad + pubtator("199").encode())
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert isinstance(reject, Rejected)
    assert (reject.file, reject.split) == (CDR_TRAIN, "train")
    return reject


# GOOD has seven lines: the bad document begins on the eighth, its first annotation is on the tenth.
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("9000\t9008\tzolvarin\tChemical\tD1", "lies beyond the text, which has 124 characters"),
        ("0\t8\tsomething\tChemical\tD1", "does not match the text, which has 'Zolvarin' there"),
        ("8\t0\tZolvarin\tChemical\tD1", "is not a span of characters"),
        ("zero\teight\tZolvarin\tChemical\tD1", "which no mention of the document has"),
        ("0\teight\tZolvarin\tChemical\tD1", "the offsets '0' and 'eight' are not numbers"),
        ("0\t٨\tZolvarin\tChemical\tD1", "are not numbers"),
        ("0\t8\tZolvarin", "4 columns, where a mention has 5 to 7"),
        ("", "2 columns"),
        ("CID\tD900009\tD900002", "joins concept 'D900009', which no mention of the document has"),
        (f"0\t{'9' * 5000}\tZolvarin\tChemical\tD1", "are not numbers"),
    ],
)
def test_a_bad_annotation_rejects_its_document_by_line(tmp_path: Path, line: str, reason: str) -> None:
    assert len(f"{TITLE} {ABSTRACT}") == 124
    reject = rejected(tmp_path, pubtator("150", lines=(line,)))
    assert reason in reject.reason
    assert reject.id == "150"
    assert reject.line == (8 if "joins" in reject.reason or "no mention" in reason else 10)
    assert reject.raw.startswith(f"150|t|{TITLE}\n150|a|")


@pytest.mark.parametrize(
    ("bad", "id", "line", "reason"),
    [
        ("150|t|Title only\n\n", "150", 8, "no abstract line"),
        ("150|t|Title\n151|a|Abstract\n\n", "150", 9, "the abstract line is of '151', not of 150"),
        ("150|t|Title\n150|a|Abstract\n151\t0\t5\tTitle\tChemical\tD1\n\n", "150", 10, "the line is of '151', not of 150"),
        ("150\t0\t5\tTitle\tChemical\tD1\n\n", "150", 8, "expected the title line"),
        ("|t|Title\n|a|Abstract\n\n", None, 8, "no document id"),
        ("150|t|\n150|a|\n\n", "150", 8, "title and abstract are empty"),
        ("stray words\n\n", None, 8, "expected the title line"),
        ("150|t|Title\n150|a|Abstract\n150|a|Again\n\n", "150", 10, "the line is of '150|a|Again'"),
    ],
)
def test_a_broken_block_is_rejected_and_the_others_are_kept(tmp_path: Path, bad: str, id: str | None, line: int, reason: str) -> None:
    reject = rejected(tmp_path, bad)
    assert (reject.id, reject.line) == (id, line)
    assert reason in reject.reason
    assert reject.raw.split("\n") == bad.strip("\n").split("\n")


def test_bytes_that_are_not_utf8_reject_their_document_by_line(tmp_path: Path) -> None:
    bad = pubtator("150").encode().replace(b"anaemia, none", b"an\xe6mia, none")
    reject = rejected(tmp_path, bad)
    assert (reject.id, reject.line) == ("150", 9)
    assert reject.reason.startswith("not UTF-8: byte 0xe6 at byte ")
    assert "an\\xe6mia" in reject.raw


def test_a_file_cut_off_within_an_abstract_or_annotation_is_not_silently_shorter(tmp_path: Path) -> None:
    text = GOOD + pubtator("150")
    within_abstract = text[: text.index("none had", len(GOOD))]
    with pytest.raises(SourceError, match=rf"{CDR_TRAIN}:9: document 150: [^?]*; the file ends here .*it is cut off\. Fetch it again"):
        read_text(tmp_path, within_abstract)
    within_annotation = text[: text.rindex("\tanaemia") + 4]
    with pytest.raises(SourceError, match=rf"{CDR_TRAIN}:12: document 150: 4 columns.*it is cut off"):
        read_text(tmp_path, within_annotation)
    within_relation = text.rstrip()[:-1]
    with pytest.raises(SourceError, match=rf"{CDR_TRAIN}:8: document 150: relation r0 .*it is cut off"):
        read_text(tmp_path, within_relation)


def test_a_whole_file_without_a_line_break_at_its_end_is_read(tmp_path: Path) -> None:
    first, last = read_text(tmp_path, (GOOD + pubtator("150")).rstrip())
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert len(last.relations) == 1


def _shards(folder: Path, settings: PrepareSettings) -> tuple[dict[str, dict[str, int]], list[Rejected]]:
    reader = PubTatorReader("bc5cdr")
    shards = list(iter_corpus(reader, reader.discover(folder), settings))
    splits = summarise((shard.split, shard.counts) for shard in shards)["splits"]
    return splits, [reject for shard in shards for reject in shard.rejected]


def test_an_id_with_other_content_is_quarantined_and_a_repeated_document_counts_once(tmp_path: Path) -> None:
    (tmp_path / CDR_TRAIN).write_text(GOOD + pubtator("150") + GOOD + pubtator("150", title=TITLE.replace("mice", "rats"), lines=()))
    splits, (reject,) = _shards(tmp_path, PrepareSettings())
    assert (splits["train"]["documents"], splits["train"]["duplicates"], splits["train"]["quarantined"]) == (2, 1, 1)
    assert (reject.id, reject.file) == ("150", CDR_TRAIN)
    assert "different content" in reject.reason
    with pytest.raises(SourceError, match=r"1 of 4 documents quarantined \(25.0%\)"):
        check_quarantine(splits, 0.01, [reject])


def test_a_document_of_ten_megabytes_is_quarantined_for_its_size_in_bounded_memory(tmp_path: Path) -> None:
    size = 10_000_000
    (tmp_path / CDR_TRAIN).write_text(GOOD + pubtator("150", abstract="a" * size, lines=()) + pubtator("199"))
    tracemalloc.start()
    splits, (reject,) = _shards(tmp_path, PrepareSettings())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert splits["train"]["documents"] == 2
    assert (reject.id, reject.file) == ("150", CDR_TRAIN)
    assert "10,000,038 characters, more than the limit of 2,000,000" in reject.reason
    assert peak < 12 * size
    splits, rejects = _shards(tmp_path, PrepareSettings(max_document_chars=20_000_000))
    assert (splits["train"]["documents"], rejects) == (3, [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\r\n", "is empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1f\x8brest", "gzip"),
        (b'[{"id": 1}]', "JSON"),
        (b'<?xml version="1.0"?><collection></collection>', "BioC XML"),
        (b'<?xml version="1.0"?>\n<document id="d1">', "DDI XML"),
        (b"12\tA title\tAn abstract\n", "CHEMDNER abstracts"),
        (b"12\tT\t0\t5\tTitle\tFAMILY\n", "CHEMDNER annotations"),
        (b"Dear reader", "no format known"),
        ("1|t|x\n1|a|y\n".encode("utf-16"), "UTF-16"),
        (pubtator(lines=("0\t8\tZolvarin\tSpecificDisease\tD1",)).encode(), "it is ncbi_disease: run `bioie prepare ncbi_disease`"),
        (pubtator(lines=("0\t8\tZolvarin\tGene\t1",)).encode(), "it is nlm_gene"),
        (pubtator(lines=("0\t8\tZolvarin\tDNAMutation\t1",)).encode(), "a corpus not known here"),
    ],
)
def test_an_empty_file_or_one_of_another_corpus_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / CDR_TRAIN
    path.write_bytes(content)
    for source in (path, tmp_path):
        with pytest.raises(SourceError, match=CDR_TRAIN) as caught:
            PubTatorReader("bc5cdr").discover(source)
        assert reason in str(caught.value)


def test_a_folder_without_the_corpus_and_a_file_without_a_split_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"looked for NCBItrainset_corpus.txt .*, found none"):
        PubTatorReader("ncbi_disease").discover(tmp_path)
    (tmp_path / "mine.txt").write_text(GOOD)
    with pytest.raises(SourceError, match="rename it to hold train, dev or test"):
        PubTatorReader("bc5cdr").discover(tmp_path / "mine.txt")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 9), st.binary(max_size=6)), max_size=4))
@example([(0, 9, b""), (5, 0, b"\n")])
def test_no_mutation_of_a_file_raises_anything_but_a_source_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]]
) -> None:
    data = (GOOD + pubtator("150", title="Die κ-Kette", lines=("4\t11\tκ-Kette\tChemical\tD1",))).encode()
    for position, removed, added in edits:
        data = data[:position] + added + data[position + removed :]
    try:
        found = read_text(tmp_path_factory.mktemp("mutated"), data)
    except SourceError as error:
        found, problem = [], str(error)
    else:
        problem = ""
    assert found or CDR_TRAIN in problem
    for one in found:
        assert isinstance(one, Document) or (one.reason and one.line and one.file == CDR_TRAIN)

"""CHEMDNER's two files: what is read, and what becomes of malformed ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.corpora.document import Document, Section, Span
from bioie_ray.corpora.formats.chemdner import ChemdnerReader
from bioie_ray.corpora.reading import Read, Rejected, SourceError

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "κ-Zolvarin and copper in mice."
ABSTRACT = "Mice were given β-zolvarin, Cu2+ and water."
GOOD = f"11\t{TITLE}\t{ABSTRACT}\n"
ANNOTATED = "11\tT\t0\t10\tκ-Zolvarin\tTRIVIAL\n11\tA\t16\t26\tβ-zolvarin\tTRIVIAL\n11\tA\t28\t32\tCu2+\tFORMULA\n"


def read_pair(folder: Path, abstracts: str | bytes, annotations: str | bytes, prefix: str = "training.") -> list[Read]:
    """What the reader gives of one pair of files."""
    for name, content in (("abstracts", abstracts), ("annotations", annotations)):
        (folder / f"{prefix}{name}.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    reader = ChemdnerReader()
    files = reader.discover(folder)
    return list(reader.read(files, files[0].split))


def test_section_offsets_become_document_offsets(tmp_path: Path) -> None:
    (document,) = read_pair(tmp_path, GOOD, ANNOTATED)
    assert isinstance(document, Document)
    assert (document.id, document.split, document.text) == ("11", "train", f"{TITLE} {ABSTRACT}")
    assert document.sections == (Section("title", 0, 30), Section("abstract", 31, 74))
    assert [(m.text, m.type, m.spans) for m in document.mentions] == [
        ("κ-Zolvarin", "TRIVIAL", (Span(0, 10),)),
        ("β-zolvarin", "TRIVIAL", (Span(47, 57),)),
        ("Cu2+", "FORMULA", (Span(59, 63),)),
    ]
    assert document.repairs == ()


def test_annotations_in_any_order_and_documents_without_any(tmp_path: Path) -> None:
    abstracts = GOOD + GOOD.replace("11", "12", 1) + GOOD.replace("11", "13", 1)
    lines = (ANNOTATED + ANNOTATED.replace("11\t", "13\t")).splitlines(keepends=True)
    mixed = [lines[i] for i in (4, 2, 3, 0, 5, 1)]
    first, empty, last = read_pair(tmp_path, abstracts, "".join(mixed))
    assert isinstance(first, Document)
    assert isinstance(empty, Document)
    assert isinstance(last, Document)
    assert [m.text for m in first.mentions] == ["Cu2+", "κ-Zolvarin", "β-zolvarin"]
    assert [m.text for m in last.mentions] == ["β-zolvarin", "κ-Zolvarin", "Cu2+"]
    assert empty.mentions == ()


def test_cr_lf_changes_nothing(tmp_path: Path) -> None:
    unix = read_pair(tmp_path, GOOD, ANNOTATED)
    assert read_pair(tmp_path, GOOD.replace("\n", "\r\n"), ANNOTATED.replace("\n", "\r\n")) == unix


def test_offsets_in_bytes_are_mended_section_by_section(tmp_path: Path) -> None:
    wrong = "11\tT\t16\t22\tcopper\tTRIVIAL\n11\tA\t29\t33\tCu2+\tFORMULA\n"
    (document,) = read_pair(tmp_path, GOOD, wrong)
    assert isinstance(document, Document)
    assert [document.text[m.spans[0].start : m.spans[0].end] for m in document.mentions] == ["copper", "Cu2+"]
    assert [note.rule for note in document.repairs] == ["offsets_in_bytes", "offsets_in_bytes"]


def test_the_release_and_the_plain_pair_and_single_files_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "chemdner_corpus"
    folder.mkdir()
    for part in ("training", "development", "evaluation"):
        (folder / f"{part}.abstracts.txt").write_text(GOOD)
        (folder / f"{part}.annotations.txt").write_text(ANNOTATED)
    (folder / "silver.abstracts.txt").write_text(GOOD)
    (folder / "silver.predictions.txt").write_text(ANNOTATED)
    reader = ChemdnerReader()
    found = Counter((file.split, file.name.partition("/")[2]) for file in reader.discover(tmp_path))
    assert found == {
        (split, f"{part}.{kind}.txt"): 1
        for split, part in (("train", "training"), ("dev", "development"), ("test", "evaluation"))
        for kind in ("abstracts", "annotations")
    }
    for kind in ("abstracts", "annotations"):
        single = reader.discover(folder / f"evaluation.{kind}.txt")
        assert [(file.name, file.split) for file in single] == [
            ("evaluation.abstracts.txt", "test"),
            ("evaluation.annotations.txt", "test"),
        ]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "abstracts.txt").write_text(GOOD)
    (plain / "annotations.txt").write_text(ANNOTATED)
    assert [(file.name, file.split) for file in reader.discover(plain)] == [
        ("abstracts.txt", "train"),
        ("annotations.txt", "train"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("12\tA\t900\t904\tCu2+\tFORMULA", "lies beyond the abstract of 43 characters"),
        ("12\tT\t28\t40\tCu2+\tFORMULA", "lies beyond the title of 30 characters"),
        ("12\tA\t16\t26\tsomething!\tFORMULA", "does not match the text"),
        ("12\tA\t16\t16\t\tFORMULA", "is not a span of characters"),
        ("12\tB\t0\t4\tMice\tFORMULA", "the section is 'B'"),
        ("12\tA\tx\t4\tMice\tFORMULA", "the offsets 'x' and '4' are not numbers"),
        ("12\tA\t0\t4\tMice", "5 columns"),
        ("12", "1 columns"),
    ],
)
def test_a_bad_annotation_rejects_its_document_by_line(tmp_path: Path, line: str, reason: str) -> None:
    kept, reject = read_pair(tmp_path, GOOD + GOOD.replace("11", "12", 1), f"{ANNOTATED}{line}\n")
    assert isinstance(kept, Document)
    assert isinstance(reject, Rejected)
    assert (reject.file, reject.line, reject.id) == ("training.annotations.txt", 4, "12")
    assert reason in reject.reason
    assert reject.raw == f"12\t{TITLE}\t{ABSTRACT}\n{line}"


@pytest.mark.parametrize("kept", ["11", "11\tA\t0\t4\tMi", "11\tA\t0\t4\tMice\tFORM"])
def test_annotations_that_are_cut_off_do_not_leave_later_documents_without_theirs(tmp_path: Path, kept: str) -> None:
    with pytest.raises(SourceError, match=r"training\.annotations\.txt:4: .* is not a whole annotation; .* it is cut off"):
        read_pair(tmp_path, GOOD + GOOD.replace("11", "12", 1), ANNOTATED + kept)


def test_whole_annotations_need_no_line_break_at_their_end(tmp_path: Path) -> None:
    (document,) = read_pair(tmp_path, GOOD, ANNOTATED.rstrip())
    assert isinstance(document, Document)
    assert len(document.mentions) == 3


def test_annotations_without_an_abstract_are_rejected_not_lost(tmp_path: Path) -> None:
    kept, reject = read_pair(tmp_path, GOOD, ANNOTATED + "99\tT\t0\t1\tx\tFAMILY\n99\tT\t2\t3\ty\tFAMILY\n")
    assert isinstance(kept, Document)
    assert isinstance(reject, Rejected)
    assert (reject.id, reject.line, reject.file) == ("99", 4, "training.annotations.txt")
    assert reject.reason == "2 annotations of a document that training.abstracts.txt does not have"
    assert reject.raw.count("\n") == 1


@pytest.mark.parametrize(
    ("bad", "id", "reason"),
    [
        (b"12\tonly a title\n", "12", "2 columns"),
        (b"\tTitle\tAbstract\n", None, "3 columns"),
        (b"12\t\t\n", "12", "title and abstract are empty"),
        (b"12\tTitle\tAn \xe6\n", "12", "not UTF-8: byte 0xe6 at byte 13 of the line"),
        (b"12\tTitle\tAn abstract that sto", "12", "cut off"),
    ],
)
def test_a_bad_abstract_is_rejected_by_line(tmp_path: Path, bad: bytes, id: str | None, reason: str) -> None:
    kept, reject = read_pair(tmp_path, GOOD.encode() + bad, ANNOTATED)
    assert isinstance(kept, Document)
    assert isinstance(reject, Rejected)
    assert (reject.file, reject.line, reject.id) == ("training.abstracts.txt", 2, id)
    assert reason in reject.reason


def test_bytes_that_are_not_utf8_in_an_annotation_reject_its_document(tmp_path: Path) -> None:
    (reject,) = read_pair(tmp_path, GOOD, ANNOTATED.encode() + b"11\tA\t0\t1\t\xff\tFAMILY\n")
    assert isinstance(reject, Rejected)
    assert (reject.line, reject.id, reject.reason.split(":")[0]) == (4, "11", "not UTF-8")


@pytest.mark.parametrize(
    ("abstracts", "annotations", "named", "reason"),
    [
        ("", ANNOTATED, "training.abstracts.txt", "is empty"),
        (GOOD, "\n", "training.annotations.txt", "is empty"),
        ("1|t|Title\n1|a|Abstract\n", ANNOTATED, "training.abstracts.txt", "it looks like PubTator"),
        ("[]", ANNOTATED, "training.abstracts.txt", "it looks like JSON"),
        (GOOD, GOOD, "training.annotations.txt", "it looks like CHEMDNER abstracts"),
        (ANNOTATED, ANNOTATED, "training.abstracts.txt", "it looks like CHEMDNER annotations"),
    ],
)
def test_an_empty_file_or_one_of_another_kind_is_refused(tmp_path: Path, abstracts: str, annotations: str, named: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_pair(tmp_path, abstracts, annotations)
    assert named in str(caught.value)
    assert reason in str(caught.value)


def test_a_missing_half_of_a_pair_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.abstracts.txt").write_text(GOOD)
    with pytest.raises(SourceError, match=r"training\.abstracts\.txt: its annotations are not beside it"):
        ChemdnerReader().discover(tmp_path)
    (tmp_path / "training.abstracts.txt").rename(tmp_path / "training.annotations.txt")
    with pytest.raises(SourceError, match=r"the abstracts training.abstracts.txt are not beside it"):
        ChemdnerReader().discover(tmp_path / "training.annotations.txt")
    with pytest.raises(SourceError, match="found none"):
        ChemdnerReader().discover(tmp_path)


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t"), min_size=1, max_size=40)


@settings(deadline=None)
@given(_TEXTS, _TEXTS, st.data())
def test_random_documents_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, title: str, abstract: str, data: st.DataObject
) -> None:
    places = []
    for _ in range(data.draw(st.integers(1, 4))):
        part = data.draw(st.sampled_from(["T", "A"]))
        text = title if part == "T" else abstract
        start = data.draw(st.integers(0, len(text) - 1))
        places.append((part, start, data.draw(st.integers(start + 1, len(text)))))
    lines = [f"7\t{p}\t{s}\t{e}\t{(title if p == 'T' else abstract)[s:e]}\tFAMILY\n" for p, s, e in places]
    (found,) = read_pair(tmp_path_factory.mktemp("written"), f"7\t{title}\t{abstract}\n", "".join(lines))
    assert isinstance(found, Document), found
    assert found.text == f"{title} {abstract}"
    base = {"T": 0, "A": len(title) + 1}
    assert [m.spans for m in found.mentions] == [(Span(s + base[p], e + base[p]),) for p, s, e in places]
    assert found.repairs == ()


def test_sample_counts(corpora_dir: Path) -> None:
    reader = ChemdnerReader()
    found = list(reader.read(reader.discover(corpora_dir / "chemdner"), "train"))
    documents = [one for one in found if isinstance(one, Document)]
    assert len(documents) == len(found) == 4
    assert Counter(m.type for d in documents for m in d.mentions) == {"SYSTEMATIC": 10, "TRIVIAL": 6, "FAMILY": 6, "FORMULA": 1}
    assert not any(d.repairs for d in documents)

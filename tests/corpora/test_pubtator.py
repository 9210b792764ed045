"""PubTator: what is read, and that a document written as PubTator comes back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from corpus_builders import ABSTRACT, TITLE, pubtator
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.config.steps import PrepareSettings
from bioie_ray.corpora.document import Argument, Document, Section, Span
from bioie_ray.corpora.formats.pubtator import PubTatorReader
from bioie_ray.corpora.prepare import iter_corpus, summarise
from bioie_ray.corpora.reading import Read, SourceError

if TYPE_CHECKING:
    from pathlib import Path

CDR_TRAIN = "CDR_TrainingSet.PubTator.txt"


def read_text(folder: Path, text: str | bytes, corpus: str = "bc5cdr", name: str = CDR_TRAIN, split: str = "train") -> list[Read]:
    """What a reader gives of one file."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    reader = PubTatorReader(corpus)
    return list(reader.read(reader.discover(folder), split))


def one_document(folder: Path, text: str, corpus: str = "bc5cdr", name: str = CDR_TRAIN, split: str = "train") -> Document:
    (document,) = read_text(folder, text, corpus, name, split)
    assert isinstance(document, Document), document
    return document


def test_title_abstract_mentions_and_relations(tmp_path: Path) -> None:
    document = one_document(tmp_path, pubtator())
    assert (document.id, document.corpus, document.split) == ("101", "bc5cdr", "train")
    assert document.text == f"{TITLE} {ABSTRACT}"
    assert document.sections == (
        Section("title", 0, len(TITLE)),
        Section("abstract", len(TITLE) + 1, len(document.text)),
    )
    assert [(m.text, m.type, m.concept_ids) for m in document.mentions] == [
        ("Zolvarin", "Chemical", ("D900001",)),
        ("zolvarin", "Chemical", ("D900001",)),
        ("anaemia", "Disease", ("D900002",)),
    ]
    (relation,) = document.relations
    assert (relation.type, relation.counted) == ("CID", True)
    assert relation.arguments == (Argument("concept", "D900001"), Argument("concept", "D900002"))
    assert document.repairs == ()
    assert document.attributes == {"file": CDR_TRAIN, "line": 1}


def test_composite_mentions_keep_their_seventh_column_and_their_ids(tmp_path: Path) -> None:
    lines = (
        "0\t8\tZolvarin\tChemical\tD1|D2\tZol|varin",
        "9\t15\tlowers\tDisease\tD3|D4",
        "16\t21\tserum\tChemical\tD5\t",
        "22\t28\tlipids\tChemical\t-1",
        "32\t36\tmice\tChemical",
        "CID\tD2\tD3",
    )
    document = one_document(tmp_path, pubtator(lines=lines))
    assert [m.concept_ids for m in document.mentions] == [("D1", "D2"), ("D3", "D4"), ("D5",), (), ()]
    assert [m.attributes for m in document.mentions] == [
        {"individual_mentions": ["Zol", "varin"]},
        {},
        {"individual_mentions": []},
        {"id_column": "-1"},
        {},
    ]


def test_ncbi_disease_ids_and_leading_blank_line(tmp_path: Path) -> None:
    lines = (
        "0\t8\tZolvarin\tModifier\tD1+OMIM:2",
        "9\t15\tlowers\tSpecificDisease\t D3",
        "16\t21\tserum\tCompositeMention\tMESH:C4|D5",
        "22\t28\tlipids  \tDiseaseClass\tD6",
    )
    document = one_document(tmp_path, "\n" + pubtator(lines=lines), "ncbi_disease", "NCBItestset_corpus.txt", "test")
    assert [m.concept_ids for m in document.mentions] == [("D1", "OMIM:2"), ("D3",), ("C4", "D5"), ("D6",)]
    assert [m.attributes.get("id_column") for m in document.mentions] == ["D1+OMIM:2", " D3", "MESH:C4|D5", None]
    assert [note.rule for note in document.repairs] == ["strip_id", "bare_mesh_id", "strip_mention"]
    assert document.attributes["line"] == 2


def test_nlm_gene_five_columns_and_two_separators(tmp_path: Path) -> None:
    lines = ("0\t8\tZolvarin\tGene\t12,34;56", "32\t36\tmice\tCell")
    document = one_document(tmp_path, pubtator(lines=lines), "nlm_gene", "nlmgene_test.pubtator", "test")
    assert [m.concept_ids for m in document.mentions] == [("12", "34", "56"), ()]
    assert document.mentions[0].attributes == {"id_column": "12,34;56"}


def test_cr_lf_and_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    blocks = pubtator() + pubtator("102")
    unix = read_text(tmp_path, blocks)
    windows = read_text(tmp_path, b"\xef\xbb\xbf" + blocks.replace("\n", "\r\n").encode())
    assert windows == unix
    assert len(unix) == 2


def test_line_separators_of_unicode_are_text(tmp_path: Path) -> None:
    abstract = "One\u2028two\u0085three\x0cfour zolvarin."
    start = len(TITLE) + 1 + abstract.index("zolvarin")
    document = one_document(tmp_path, pubtator(abstract=abstract, lines=(f"{start}\t{start + 8}\tzolvarin\tChemical\tD1",)))
    assert document.text.endswith(abstract)


def test_a_missing_blank_line_between_documents_is_no_matter(tmp_path: Path) -> None:
    ids = [one.id for one in read_text(tmp_path, pubtator().rstrip("\n") + "\n" + pubtator("102"))]
    assert ids == ["101", "102"]


def test_offsets_in_bytes_are_mended(tmp_path: Path) -> None:
    title = "κ-Zolvarin in mice."
    lines = ("3\t11\tZolvarin\tChemical\tD1", "15\t19\tmice\tChemical\tD2")
    document = one_document(tmp_path, pubtator(title=title, lines=lines))
    assert [m.spans[0] for m in document.mentions] == [Span(2, 10), Span(14, 18)]
    assert [note.rule for note in document.repairs] == ["offsets_in_bytes"]


def test_files_are_found_nested_flat_single_and_under_names_of_their_own(tmp_path: Path) -> None:
    reader = PubTatorReader("bc5cdr")
    nested = tmp_path / "CDR_Data" / "CDR.Corpus.v010516"
    nested.mkdir(parents=True)
    (tmp_path / "CDR_Data" / "TestSet.DNorm.PubTator.txt").write_text(pubtator())
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "CDR_TestSet.PubTator.txt").write_bytes(b"\0\5\26\7")
    for name in ("CDR_TrainingSet.PubTator.txt", "CDR_DevelopmentSet.PubTator.txt", "CDR_TestSet.PubTator.txt"):
        (nested / name).write_text(pubtator())
    assert [(file.name.rsplit("/")[-1], file.split) for file in reader.discover(tmp_path)] == [
        ("CDR_DevelopmentSet.PubTator.txt", "dev"),
        ("CDR_TestSet.PubTator.txt", "test"),
        ("CDR_TrainingSet.PubTator.txt", "train"),
    ]
    (single,) = reader.discover(nested / "CDR_TestSet.PubTator.txt")
    assert (single.name, single.split) == ("CDR_TestSet.PubTator.txt", "test")
    own = tmp_path / "own"
    own.mkdir()
    (own / "dev.pubtator").write_text(pubtator())
    (own / "notes_train.txt").write_text("nothing of this kind")
    assert [(file.name, file.split) for file in reader.discover(own)] == [("dev.pubtator", "dev")]


def test_one_split_in_two_different_files_is_refused_and_a_copy_is_not(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / CDR_TRAIN).write_text(pubtator())
    (tmp_path / "old" / CDR_TRAIN).write_text(pubtator())
    assert [file.name for file in PubTatorReader("bc5cdr").discover(tmp_path)] == [CDR_TRAIN]
    (tmp_path / "old" / CDR_TRAIN).write_text(pubtator("102"))
    with pytest.raises(SourceError, match="both the train split and differ"):
        PubTatorReader("bc5cdr").discover(tmp_path)


_CHARS = st.characters(codec="utf-8", exclude_characters="\n\r\t|")
_WORDS = st.lists(st.text(_CHARS, min_size=1, max_size=8), min_size=1, max_size=12).map(" ".join)


@st.composite
def _documents(draw: st.DrawFn) -> tuple[str, str, list[tuple[int, int, str, list[str]]]]:
    title, abstract = draw(_WORDS), draw(_WORDS)
    length = len(title) + 1 + len(abstract)
    mentions = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, length - 1))
        end = draw(st.integers(start + 1, min(length, start + 10)))
        ids = draw(st.lists(st.from_regex(r"[CD][0-9]{3,6}", fullmatch=True), max_size=3, unique=True))
        mentions.append((start, end, draw(st.sampled_from(["Chemical", "Disease"])), ids))
    return title, abstract, mentions


@settings(deadline=None)
@given(st.lists(_documents(), min_size=1, max_size=3), st.sampled_from(["\n", "\r\n"]))
def test_random_documents_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[str, str, list[tuple[int, int, str, list[str]]]]], end: str
) -> None:
    blocks = []
    for i, (title, abstract, mentions) in enumerate(documents):
        text = f"{title} {abstract}"
        lines = tuple(f"{s}\t{e}\t{text[s:e]}\t{kind}\t{'|'.join(ids)}" for s, e, kind, ids in mentions)
        blocks.append(pubtator(str(i + 1), title, abstract, lines, end))
    folder = tmp_path_factory.mktemp("written")
    found = read_text(folder, "".join(blocks))
    assert len(found) == len(documents)
    for one, (title, abstract, mentions) in zip(found, documents, strict=True):
        assert isinstance(one, Document)
        assert one.text == f"{title} {abstract}"
        assert [(m.spans, m.text, m.type, list(m.concept_ids)) for m in one.mentions] == [
            ((Span(s, e),), one.text[s:e], kind, ids) for s, e, kind, ids in mentions
        ]
        assert one.repairs == ()


def _counts(corpora_dir: Path, corpus: str) -> tuple[dict[str, dict[str, int]], list[Document]]:
    reader = PubTatorReader(corpus)
    shards = list(iter_corpus(reader, reader.discover(corpora_dir / corpus), PrepareSettings()))
    splits = summarise((shard.split, shard.counts) for shard in shards)["splits"]
    return splits, [Document.from_row(row) for shard in shards for row in shard.table.to_pylist()]


def test_bc5cdr_counts(corpora_dir: Path) -> None:
    splits, documents = _counts(corpora_dir, "bc5cdr")
    assert {s: (c["documents"], c["mentions"], c["relations"], c["quarantined"]) for s, c in splits.items()} == {
        "train": (500, 9385, 1038, 0),
        "dev": (500, 9591, 1012, 0),
        "test": (500, 9809, 1066, 0),
    }
    types = Counter((d.split, m.type) for d in documents for m in d.mentions)
    assert types == {
        ("train", "Chemical"): 5203,
        ("train", "Disease"): 4182,
        ("dev", "Chemical"): 5347,
        ("dev", "Disease"): 4244,
        ("test", "Chemical"): 5385,
        ("test", "Disease"): 4424,
    }
    assert Counter(d.split for d in documents for m in d.mentions if m.attributes.get("id_column") == "-1") == {
        "train": 76,
        "dev": 59,
        "test": 91,
    }
    assert Counter(d.split for d in documents for m in d.mentions if "individual_mentions" in m.attributes) == {
        "train": 107,
        "dev": 89,
        "test": 57,
    }
    assert not any(d.repairs for d in documents)


def test_ncbi_disease_counts(corpora_dir: Path) -> None:
    splits, documents = _counts(corpora_dir, "ncbi_disease")
    assert {s: (c["documents"], c["mentions"], c["duplicates"], c["quarantined"]) for s, c in splits.items()} == {
        "train": (592, 5134, 1, 0),
        "dev": (100, 787, 0, 0),
        "test": (100, 960, 0, 0),
    }
    rules = Counter(note.rule for d in documents for note in d.repairs)
    assert rules == {"strip_id": 5, "bare_mesh_id": 2, "strip_mention": 1}


def test_nlm_gene_counts(corpora_dir: Path) -> None:
    splits, documents = _counts(corpora_dir, "nlm_gene")
    assert splits["train"]["documents"] == 450
    assert splits["train"]["quarantined"] == 0
    assert Counter(m.type for d in documents if d.split == "train" for m in d.mentions) == {
        "Gene": 11_233,
        "FamilyName": 1_528,
        "Cell": 956,
        "DomainMotif": 71,
        "ChromosomeLocation": 9,
    }
    rules = Counter(note.rule for d in documents for note in d.repairs)
    assert rules == {"shift_span": 10, "take_text_case": 1}

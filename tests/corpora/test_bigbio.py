from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.config.steps import CorpusName
from bioie_ray.corpora.catalog import find_reader
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.formats.bigbio import BigBioReader
from bioie_ray.corpora.formats.bigbio_relations import collapse
from bioie_ray.corpora.reading import Read, Rejected, SourceError
from bioie_ray.corpora.tasks import get_task, gold

STRING = pa.string()
TEXTS, OFFSETS = ("text", pa.list_(STRING)), ("offsets", pa.list_(pa.list_(pa.int32())))
NORMALIZED = ("normalized", pa.list_(pa.struct([("db_name", STRING), ("db_id", STRING)])))
ARGUMENTS = [("role", STRING), ("ref_id", STRING)]
SCHEMA = pa.schema(
    [
        ("id", STRING),
        ("document_id", STRING),
        ("passages", pa.list_(pa.struct([("id", STRING), ("type", STRING), TEXTS, OFFSETS]))),
        ("entities", pa.list_(pa.struct([("id", STRING), ("type", STRING), TEXTS, OFFSETS, NORMALIZED]))),
        (
            "events",
            pa.list_(pa.struct([("id", STRING), ("type", STRING), ("arguments", pa.list_(pa.struct(ARGUMENTS)))])),
        ),
        ("coreferences", pa.list_(pa.struct([("id", STRING), ("entity_ids", pa.list_(STRING))]))),
        (
            "relations",
            pa.list_(pa.struct([("id", STRING), ("type", STRING), ("arg1_id", STRING), ("arg2_id", STRING), NORMALIZED])),
        ),
    ]
)


def entity(id: str, text: str, start: int, type: str = "Chemical", concepts: Sequence[str] = ()) -> dict[str, Any]:
    links = [{"db_name": "MESH", "db_id": concept} for concept in concepts]
    return {"id": id, "type": type, "text": [text], "offsets": [[start, start + len(text)]], "normalized": links}


def passages(*texts: str) -> list[dict[str, Any]]:
    starts = itertools.accumulate((len(text) + 1 for text in texts), initial=0)
    return [
        {"id": f"p{n}", "type": f"part{n}", "text": [text], "offsets": [[start, start + len(text)]]}
        for n, (text, start) in enumerate(zip(texts, starts, strict=False))
    ]


def row(id: str = "1", texts: Sequence[str] = ("Aspirin.", "An ulcer."), **changes: Any) -> dict[str, Any]:
    entities = [entity("a", "Aspirin", 0, concepts=["D1"]), entity("u", "ulcer", 12, "Disease", ["D2"])]
    relations = [{"id": "r", "type": "CID", "arg1_id": "a", "arg2_id": "u", "normalized": []}]
    base = {"id": id, "document_id": id, "passages": passages(*texts), "events": [], "coreferences": []}
    return {**base, "entities": entities, "relations": relations, **changes}


def pairs(*joined: tuple[str, str], type: str = "CID") -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "type": type, "arg1_id": a, "arg2_id": b, "normalized": []} for n, (a, b) in enumerate(joined)]


def write(folder: Path, rows: Iterable[Mapping[str, Any]], name: str = "bc5cdr_bigbio_kb/train/0000.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, row_group_size=7)
    return path


def read(source: Path, corpus: CorpusName = "bc5cdr", split: str = "train") -> list[Read]:
    reader = BigBioReader(corpus)
    return list(reader.read(reader.discover(source), split))


def read_one(folder: Path, corpus: CorpusName = "bc5cdr", **changes: Any) -> Document:
    path = write(folder, [row(**changes)], f"{corpus}_bigbio_kb/train/0000.parquet")
    (document,) = read(path, corpus)
    assert isinstance(document, Document), document
    return document


def test_a_row_becomes_a_document(tmp_path: Path) -> None:
    document = read_one(tmp_path)
    assert document.text == "Aspirin. An ulcer."
    assert [(s.name, document.text[s.start : s.end]) for s in document.sections] == [
        ("part0", "Aspirin."),
        ("part1", "An ulcer."),
    ]
    assert [(m.id, m.text, m.type, m.concept_ids) for m in document.mentions] == [
        ("a", "Aspirin", "Chemical", ("D1",)),
        ("u", "ulcer", "Disease", ("D2",)),
    ]
    (relation,) = document.relations
    assert [(a.kind, a.ref) for a in relation.arguments] == [("concept", "D1"), ("concept", "D2")]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("bc5cdr_bigbio_kb/train/0000.parquet", "train"),
        ("bc5cdr_bigbio_kb/validation/0000.parquet", "dev"),
        ("bc5cdr_bigbio_kb/test/0001.parquet", "test"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("bc5cdr_bigbio_kb/bc5cdr-validation.parquet", "dev"),
        ("test.parquet", "test"),
    ],
)
def test_paths_tell_the_split(tmp_path: Path, name: str, split: str) -> None:
    path = write(tmp_path, [row()], name)
    for source in (tmp_path, path):
        (file,) = BigBioReader("bc5cdr").discover(source)
        assert file.split == split
    assert isinstance(read(tmp_path, split=split)[0], Document)


def test_other_configurations_and_other_corpora_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, [row()], "bc5cdr_source/train/0000.parquet")
    write(tmp_path, [row()], "chemdner_bigbio_kb/train/0000.parquet")
    with pytest.raises(SourceError, match=r"such as bc5cdr_bigbio_kb/train/0000\.parquet"):
        BigBioReader("bc5cdr").discover(tmp_path)
    write(tmp_path, [row()])
    assert [f.name for f in BigBioReader("bc5cdr").discover(tmp_path)] == ["bc5cdr_bigbio_kb/train/0000.parquet"]


def test_a_path_that_tells_no_split_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [row()], "bc5cdr_bigbio_kb/0000.parquet")
    with pytest.raises(SourceError, match=r"0000.parquet: its path tells no split; name it or its folder train, valid"):
        BigBioReader("bc5cdr").discover(tmp_path)


def test_parquet_of_another_schema_is_not_taken(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "train.parquet")
    with pytest.raises(SourceError, match="looked for parquet of the BigBio-KB schema"):
        BigBioReader("bc5cdr").discover(tmp_path)


def test_a_truncated_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, [row()])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match=r"0000.parquet: not a readable parquet file .*; is it cut off"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entities": [entity("a", "Aspirin", 40)], "relations": []}, "lies beyond the text, which has 18 characters"),
        (
            {"entities": [entity("a", "Heparin", 0)], "relations": []},
            "does not match the text, which has 'Aspirin' there",
        ),
        ({"relations": pairs(("a", "z"))}, "relation r0 joins z, which is no entity of the document"),
        ({"passages": []}, "it has no text"),
        ({"passages": passages("Aspirin.") * 2}, "passage p0 at 0-8 does not fit"),
        ({"document_id": None}, "it has no id"),
    ],
)
def test_a_bad_row_is_rejected_and_the_others_survive(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write(tmp_path, [row("0"), row("1", **changes), row("2")])
    _, bad, last = read(tmp_path)
    assert isinstance(last, Document)
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert bad.file == "bc5cdr_bigbio_kb/train/0000.parquet"


def test_a_discontinuous_entity_has_several_spans(tmp_path: Path) -> None:
    mention = {"id": "a", "type": "Disease", "text": ["An", "ulcer"], "offsets": [[9, 11], [12, 17]], "normalized": []}
    document = read_one(tmp_path, entities=[mention], relations=[])
    assert [(s.start, s.end) for s in document.mentions[0].spans] == [(9, 11), (12, 17)]


def test_expanded_relations_are_collapsed_to_concepts(tmp_path: Path) -> None:
    text = "aspirin, ASA: ulcer, bleeding ulcer, pain"
    at = text.index
    mentions = [
        entity("1", "aspirin", 0, concepts=["D1"]),
        entity("2", "ASA", at("ASA"), concepts=["D1"]),
        entity("3", "ulcer", at("ulcer"), concepts=["D2"]),
        entity("4", "bleeding ulcer", at("bleeding"), concepts=["D3", "D2"]),
        entity("5", "pain", at("pain"), concepts=["D4"]),
    ]
    ulcer = [("1", "3"), ("1", "4"), ("2", "3"), ("2", "4")]
    pain, bleeding = [("1", "5"), ("2", "5")], [("1", "4"), ("2", "4")]
    expected = {
        tuple(ulcer): ["D1|D2"],
        tuple(ulcer + pain): ["D1|D2", "D1|D4"],
        tuple(pain + bleeding + ulcer): ["D1|D4", "D1|D3", "D1|D2"],
        tuple(bleeding): ["D1|D3"],
    }
    for joined, concepts in expected.items():
        document = read_one(tmp_path, texts=(text,), entities=mentions, relations=pairs(*joined))
        assert ["|".join(a.ref for a in r.arguments) for r in document.relations] == concepts


@given(st.data())
def test_collapsing_undoes_expanding(data: st.DataObject) -> None:
    concepts = st.sets(st.sampled_from("ABCDE"), min_size=1, max_size=2)
    mentions = data.draw(st.lists(concepts, min_size=1, max_size=7))
    groups: dict[str, tuple[str, ...]] = {}
    for number, ids in enumerate(mentions):
        for concept in sorted(ids):
            groups[concept] = (*groups.get(concept, ()), str(number))
    names = st.sampled_from(sorted(groups))
    relations = data.draw(st.lists(st.tuples(names, names), unique=True, max_size=6))

    def expand(some: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(a, b) for left, right in some for a in groups[left] for b in groups[right]]

    found = collapse(expand(relations), groups)
    assert expand(found) == expand(relations)


def test_rows_in_another_order_still_give_the_relations() -> None:
    groups = {"A": ("1", "2"), "B": ("3",), "C": ("4", "5")}
    shuffled = [("2", "5"), ("1", "3"), ("2", "4"), ("1", "4"), ("2", "3"), ("1", "5")]
    assert sorted(collapse(shuffled, groups)) == [("A", "B"), ("A", "C")]


def test_binding_pairs_are_collapsed_to_clusters_and_have_no_label(tmp_path: Path) -> None:
    text = "A (a1) binds B"
    mentions = [entity("e0", "A", 0, "protein"), entity("e1", "a1", 3, "protein"), entity("e2", "B", 13, "protein")]
    clusters = [{"id": "c0", "entity_ids": ["e0", "e1"]}, {"id": "c1", "entity_ids": ["e2"]}]
    joined = pairs(("e0", "e2"), ("e1", "e2"), ("e0", "e0"), ("e0", "e1"), ("e1", "e0"), ("e1", "e1"), type="bind")
    changes = {"texts": (text,), "entities": mentions, "coreferences": clusters, "relations": joined}
    document = read_one(tmp_path, "biorelex", id="x.train.0", document_id="paper", **changes)
    assert document.id == "x.train.0"
    assert document.attributes["document_id"] == "paper"
    assert [[a.ref for a in r.arguments] for r in document.relations] == [["0", "1"], ["0", "0"]]
    assert {(r.type, r.label) for r in document.relations} == {("bind", "")}
    assert gold(get_task("biorelex"), document).answers == (
        ("A", "A"),
        ("A", "a1"),
        ("A", "B"),
        ("a1", "A"),
        ("a1", "a1"),
        ("a1", "B"),
    )


def test_the_development_set_of_biorelex_is_its_test_split(tmp_path: Path) -> None:
    path = write(tmp_path, [row()], "biorelex_bigbio_kb/validation/0000.parquet")
    assert [f.split for f in BigBioReader("biorelex").discover(path)] == ["test"]


def test_the_two_test_sets_of_ddi_are_parted(tmp_path: Path) -> None:
    drugs = [entity("a", "Aspirin", 0, "DRUG"), entity("u", "ulcer", 12, "DRUG_N")]
    positive = row("1", entities=drugs, relations=pairs(("a", "u"), type="EFFECT"))
    path = write(tmp_path, [positive, row("2", entities=drugs, relations=[])], "ddi_corpus_bigbio_kb/test/0000.parquet")
    assert [f.split for f in BigBioReader("ddi_corpus").discover(path)] == ["test", "test_ner"]
    (interaction,) = read(path, "ddi_corpus", "test")
    (recognition,) = read(path, "ddi_corpus", "test_ner")
    assert isinstance(interaction, Document)
    assert isinstance(recognition, Document)
    assert (interaction.id, recognition.id) == ("1", "2")
    assert [m.type for m in interaction.mentions] == ["drug", "drug_n"]
    assert [(r.type, r.label, r.counted) for r in interaction.relations] == [("DDI", "effect", True)]


def test_concepts_are_written_as_the_releases_write_them(tmp_path: Path) -> None:
    links = [
        {"db_name": "OMIM", "db_id": "1"},
        {"db_name": "MESH", "db_id": "D1 "},
        {"db_name": "NCBIGene", "db_id": "7"},
    ]
    expected = {"ncbi_disease": ("OMIM:1", "D1", "NCBIGene:7"), "nlm_gene": ("1", "D1", "7")}
    for corpus, ids in expected.items():
        found = entity("a", "Aspirin", 0) | {"normalized": links}
        assert corpus in get_args(CorpusName)
        document = read_one(tmp_path, corpus, entities=[found], relations=[])  # type: ignore[arg-type]
        assert document.mentions[0].concept_ids == ids


def test_reading_streams_by_row_groups(tmp_path: Path) -> None:
    write(tmp_path, (row(str(n)) for n in range(200)))
    reader = BigBioReader("bc5cdr")
    documents = reader.read(reader.discover(tmp_path), "train")
    assert [d.id for d in itertools.islice(documents, 3) if isinstance(d, Document)] == ["0", "1", "2"]
    assert sum(1 for _ in documents) == 197


def test_bc5cdr_written_as_the_hub_writes_it_reads_back_with_equal_counts(corpora_dir: Path, tmp_path: Path) -> None:
    original, files = find_reader("bc5cdr", corpora_dir / "bc5cdr", "pubtator")
    documents = [d for d in original.read(files, "test") if isinstance(d, Document)]
    write(tmp_path, map(as_row, documents), "bc5cdr_bigbio_kb/test/0000.parquet")
    back = [d for d in read(tmp_path, split="test") if isinstance(d, Document)]
    assert len(back) == len(documents) == 500
    task = get_task("bc5cdr_cid")
    ambiguous = 0
    for before, after in zip(documents, back, strict=True):
        assert (before.id, before.text) == (after.id, after.text)
        assert [(m.text, m.type, m.spans, m.concept_ids) for m in before.mentions] == [
            (m.text, m.type, m.spans, m.concept_ids) for m in after.mentions
        ]
        assert len(before.relations) == len(after.relations)
        assert gold(task, before) == gold(task, after)
        ambiguous += Counter(r.arguments for r in before.relations) != Counter(r.arguments for r in after.relations)
    # Two concepts that occur in composite mentions only, and in the same ones, cannot be told apart in the hub's rows.
    assert ambiguous <= 2


def as_row(document: Document) -> dict[str, Any]:
    title, abstract = (document.text[s.start : s.end] for s in document.sections)
    relations = []
    for relation in document.relations:
        left, right = ([m.id for m in document.mentions if a.ref in m.concept_ids] for a in relation.arguments)
        relations += list(itertools.product(left, right))
    mentions = [entity(m.id, m.text, m.spans[0].start, m.type, m.concept_ids) for m in document.mentions]
    return row(document.id, (title, abstract), entities=mentions, relations=pairs(*relations))

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bioie_ray.config.steps import PrepareSettings
from bioie_ray.corpora import prepare
from bioie_ray.corpora.catalog import find_reader
from bioie_ray.corpora.document import DOCUMENT_SCHEMA, Document, Mention, Repair, Span, from_table
from bioie_ray.corpora.prepare import (
    SplitCounts,
    check_quarantine,
    describe,
    iter_corpus,
    iter_shards,
    summarise,
)
from bioie_ray.corpora.reading import Read, Rejected, SourceError, SourceFile


@dataclass
class ListReader:
    """A source in memory: what a format's reader would have read."""

    items: Sequence[Read]
    corpus: str = "bc5cdr"
    format: str = "list"

    def discover(self, source: Path) -> Sequence[SourceFile]:
        return [SourceFile(source, split, split) for split in dict.fromkeys(item.split for item in self.items)]

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        return (item for item in self.items if item.split == split)


def shards(*items: Read, **settings: int) -> list[prepare.PreparedShard]:
    reader = ListReader(items)
    return list(iter_corpus(reader, reader.discover(Path()), PrepareSettings(**settings)))


def document(id: str, text: str = "Ulcer.", split: str = "train") -> Document:
    return Document(id, "bc5cdr", split, text, mentions=(Mention("m", text[:3], "Disease", (Span(0, 3),)),))


def reject(id: str, raw: str = "") -> Rejected:
    return Rejected("f.txt", 7, id, "train", "broken", raw)


def ids(shard: prepare.PreparedShard) -> list[str]:
    return [d.id for d in from_table(shard.table)]


def test_documents_fill_shards_in_source_order() -> None:
    made = shards(*(document(str(n)) for n in (5, 3, 4, 1, 2)), document("t", split="test"), documents_per_shard=2)
    assert [(shard.name, ids(shard)) for shard in made] == [
        ("train-00000", ["5", "3"]),
        ("train-00001", ["4", "1"]),
        ("train-00002", ["2"]),
        ("test-00000", ["t"]),
    ]
    assert all(shard.table.schema == DOCUMENT_SCHEMA for shard in made)


def test_rejects_go_with_the_shard_they_were_met_in() -> None:
    made = shards(reject("a"), document("1"), document("2"), reject("b"), documents_per_shard=2)
    assert [(ids(shard), [r.id for r in shard.rejected]) for shard in made] == [(["1"], ["a"]), (["2"], ["b"])]


def test_counts_are_of_what_is_kept() -> None:
    repaired = replace(document("1"), repairs=(Repair("x", ""), Repair("y", "")))
    made = shards(repaired, document("2"), document("2"), reject("3"), document("2", split="dev"))
    assert summarise((shard.split, shard.counts) for shard in made) == {
        "splits": {
            "train": {"documents": 2, "mentions": 2, "relations": 0, "quarantined": 1, "repaired": 1, "duplicates": 1},
            "dev": {"documents": 0, "mentions": 0, "relations": 0, "quarantined": 0, "repaired": 0, "duplicates": 1},
        }
    }


def test_negative_pairs_are_kept_but_not_counted(tmp_path: Path) -> None:
    folder = tmp_path / "Train" / "DrugBank"
    folder.mkdir(parents=True)
    entities = "".join(f'<entity id="e{n}" charOffset="{n}-{n}" type="drug" text="{n}"/>' for n in range(3))
    pairs = "".join(f'<pair id="p{n}" e1="e{n}" e2="e2" ddi="{found}"/>' for n, found in enumerate(("true", "false")))
    (folder / "x.xml").write_text(f'<document id="1"><sentence id="s" text="012">{entities}{pairs}</sentence></document>')
    (shard,) = iter_corpus(*find_reader("ddi_corpus", tmp_path), PrepareSettings())
    assert (shard.counts.relations, shard.table["relations"][0].as_py().__len__()) == (1, 2)


def test_an_identical_document_counts_once() -> None:
    (shard,) = shards(document("1"), replace(document("1"), attributes={"file": "other"}), document("2"))
    assert ids(shard) == ["1", "2"]
    assert (shard.counts.duplicates, shard.counts.quarantined) == (1, 0)


def test_a_second_document_with_the_id_of_a_first_is_rejected_in_its_split_and_in_others() -> None:
    train, test = shards(document("1"), document("1", "Other."), document("1", "Third.", split="test"))
    assert ids(train) == ["1"]
    assert ids(test) == []
    (second,), (third,) = train.rejected, test.rejected
    assert (second.id, second.file) == ("1", "train")
    assert second.reason == third.reason == "its id occurs before, in train, with different content"
    assert json.loads(second.raw)["text"] == "Other."


def test_an_identical_document_in_another_split_is_a_duplicate_there() -> None:
    _, test = shards(document("1"), document("1", split="test"))
    assert (ids(test), test.counts.duplicates) == ([], 1)


def test_the_recognition_test_set_of_ddi_has_ids_of_its_own() -> None:
    made = shards(document("1"), document("1", "Other.", split="test_ner"))
    assert [ids(shard) for shard in made] == [["1"], ["1"]]


def test_a_document_beyond_the_limit_is_rejected() -> None:
    (shard,) = shards(document("1", "x" * 1001), document("2", "x" * 1000), max_document_chars=1000)
    assert ids(shard) == ["2"]
    assert "1,001 characters, more than the limit of 1,000 (prepare.max_document_chars)" in shard.rejected[0].reason


def test_a_mention_that_does_not_match_never_gets_into_a_shard() -> None:
    wrong = replace(document("1"), mentions=(Mention("m", "Ulcers", "Disease", (Span(0, 6),)),))
    beyond = replace(document("2"), mentions=(Mention("m", "Ulcer", "Disease", (Span(3, 9),)),))
    (shard,) = shards(wrong, beyond)
    assert ids(shard) == []
    assert "'Ulcers'" in shard.rejected[0].reason
    assert "beyond the text" in shard.rejected[1].reason


def test_a_split_without_any_document_is_an_error() -> None:
    reader = ListReader([])
    with pytest.raises(SourceError, match=r"a.txt: no document in it \(bc5cdr train\); is the file empty"):
        list(iter_shards(reader, [SourceFile(Path(), "a.txt", "train")], "train", PrepareSettings()))


def test_long_documents_end_a_shard_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "MAX_SHARD_CHARS", 1_000)
    made = shards(*(document(str(n), "x" * 400) for n in range(5)), reject("r", "y" * 900), document("9"))
    assert [len(shard.table) for shard in made] == [3, 2, 1]
    assert [len(shard.rejected) for shard in made] == [0, 1, 0]


def test_memory_holds_one_shard_at_a_time() -> None:
    alive = 0
    peak = 0

    class Counted(str):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    class Endless(ListReader):
        def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
            nonlocal alive, peak
            for number in range(1_000):
                alive += 1
                peak = max(peak, alive)
                yield Document(str(number), "bc5cdr", "train", Counted("x" * 1_000))

    reader = Endless([document("0")])
    names = [s.name for s in iter_corpus(reader, reader.discover(Path()), PrepareSettings(documents_per_shard=10))]
    assert len(names) == 100
    assert peak <= 22


def test_too_much_quarantine_is_refused_with_its_reasons() -> None:
    counts = {"train": SplitCounts(documents=98, quarantined=2).as_dict(), "test": SplitCounts(documents=100).as_dict()}
    check_quarantine(counts, 0.01)
    with pytest.raises(SourceError) as caught:
        check_quarantine(counts, 0.005, [reject("a"), reject("b")])
    message = str(caught.value)
    assert "2 of 200 documents quarantined (1.0%), more than the limit of 0.5% (prepare.max_quarantined_share)" in message
    assert "  f.txt:7: document a: broken" in message


def test_only_the_first_reasons_are_shown() -> None:
    with pytest.raises(SourceError) as caught:
        check_quarantine({"train": SplitCounts(quarantined=30).as_dict()}, 0.5, (reject(str(n)) for n in range(30)))
    assert str(caught.value).count("broken") == 10
    assert str(caught.value).endswith("and 20 more")


def test_an_empty_corpus_is_not_over_the_limit() -> None:
    check_quarantine({}, 0.0)


def test_a_reject_is_described_by_what_is_known() -> None:
    assert describe(replace(reject("a"), line=None)) == "f.txt: document a: broken"
    assert describe(replace(reject("a"), id=None)) == "f.txt:7: broken"


FULL = {
    "bc5cdr": {"train": (500, 9385, 1038), "dev": (500, 9591, 1012), "test": (500, 9809, 1066)},
    "ncbi_disease": {"train": (592, 5134, 0), "dev": (100, 787, 0), "test": (100, 960, 0)},
    "nlm_gene": {"train": (450, 13797, 0)},
    "chemdner": {"train": (4, 23, 0)},
}


@pytest.mark.parametrize("corpus", FULL)
def test_counts_of_real_corpora_equal_the_published_ones(corpora_dir: Path, corpus: str) -> None:
    made = list(iter_corpus(*find_reader(corpus, corpora_dir / corpus), PrepareSettings()))
    splits = summarise((shard.split, shard.counts) for shard in made)["splits"]
    found = {split: (c["documents"], c["mentions"], c["relations"]) for split, c in splits.items()}
    assert found == FULL[corpus]
    assert sum(counts["quarantined"] for counts in splits.values()) == 0
    assert sum(counts["duplicates"] for counts in splits.values()) == (1 if corpus == "ncbi_disease" else 0)


@pytest.mark.parametrize("corpus", ["ddi_corpus", "biorelex"])
def test_preparing_twice_gives_the_same_tables(corpora_dir: Path, corpus: str) -> None:
    def run() -> list[prepare.PreparedShard]:
        return list(iter_corpus(*find_reader(corpus, corpora_dir / corpus), PrepareSettings(documents_per_shard=30)))

    first, second = run(), run()
    assert len(first) >= 5
    assert [(s.name, s.counts) for s in first] == [(s.name, s.counts) for s in second]
    assert all(a.table.equals(b.table) for a, b in zip(first, second, strict=True))

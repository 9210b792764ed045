from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from bioie_ray.config.steps import IndexSettings
from bioie_ray.corpora.document import Document, Mention, Span, to_table
from bioie_ray.retrieval.index import build_index
from bioie_ray.retrieval.pool import DocumentPool, Loaders
from bioie_ray.retrieval.search import search_shards

TEXTS = {
    "p07": "Ketamine anaesthesia was followed by emergence delirium.",
    "p03": "IL-2 receptor expression rose after TNF-alpha stimulation.",
    "p11": "Cocaine-induced seizures were abolished by diazepam.",
    "p01": "Diazepam, cocaine and seizures: a review of seizures.",
    "p05": "Naïve T cells were cultured for 5 days without a stimulus.",
    "p02": "Renal failure after cisplatin is dose dependent.",
    "p09": "Interleukin 2 given alone had no effect on IL-10.",
}
SHARDS = {"train-00000": ["p07", "p03", "p11"], "train-00001": ["p01", "p05"], "train-00002": ["p02", "p09"]}
GOLD = {"p07": "Ketamine", "p11": "Cocaine", "p01": "Diazepam", "p02": "cisplatin"}


def document(id_: str) -> Document:
    text = TEXTS[id_]
    answer = GOLD.get(id_)
    if answer is None:
        return Document(id_, "demo", "train", text)
    start = text.index(answer)
    mention = Mention("T1", answer, "Chemical", (Span(start, start + len(answer)),), (f"MESH:{answer.lower()}",))
    return Document(id_, "demo", "train", text, mentions=(mention,))


def vector(id_: str) -> np.ndarray:
    drawn = np.random.default_rng(int(id_[1:])).normal(size=12)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def gold_of(document: Document) -> frozenset[str]:
    return frozenset(mention.text.lower() for mention in document.mentions)


def concepts_of(document: Document) -> frozenset[str]:
    return frozenset(concept for mention in document.mentions for concept in mention.concept_ids)


class Store:
    """Shards in memory that count how often each is read."""

    def __init__(self, shards: dict[str, list[str]], *, indexed: bool = False) -> None:
        self.shards = shards
        self.num_reads: Counter[str] = Counter()
        self.loaders = Loaders(self.documents, self.vectors, self.index if indexed else None)

    def documents(self, name: str) -> pa.Table:
        self.num_reads[name] += 1
        return to_table(document(id_) for id_ in self.shards[name])

    def vectors(self, name: str) -> tuple[Sequence[str], np.ndarray]:
        ids = sorted(self.shards[name])
        return ids, np.stack([vector(id_) for id_ in ids])

    def index(self, name: str) -> bytes:
        return build_index(self.vectors(name)[1], IndexSettings(kind="hnsw"), seed=0)

    def pool(self, **settings: object) -> DocumentPool:
        return DocumentPool(list(self.shards), self.loaders, gold_of=gold_of, concepts_of=concepts_of, **settings)


@pytest.fixture
def store() -> Store:
    return Store(SHARDS)


def test_documents_are_found_by_id(store: Store) -> None:
    pool = store.pool()
    assert list(pool.ids) == sorted(TEXTS)
    assert pool.size == 7
    for id_, text in TEXTS.items():
        assert pool.document(id_) == document(id_)
        assert pool.text(id_) == text
        assert pool.num_chars(id_) == len(text)
    assert pool.gold("p11") == {"cocaine"}
    assert pool.concepts("p11") == {"MESH:cocaine"}
    assert pool.gold("p05") == pool.concepts("p05") == frozenset()
    assert pool.share_without_answer == pytest.approx(3 / 7)


def test_vectors_come_in_the_order_asked_for(store: Store) -> None:
    ids = ["p09", "p01", "p11", "p03", "p02"]
    np.testing.assert_array_equal(store.pool().vectors(ids), np.stack([vector(id_) for id_ in ids]))


@pytest.mark.parametrize("indexed", [False, True], ids=["flat", "hnsw"])
@pytest.mark.parametrize("excluded", [set(), {"p01", "p03"}], ids=["all", "excluded"])
def test_nearest_is_a_search_over_what_is_not_excluded(indexed: bool, excluded: set[str]) -> None:
    pool = Store(SHARDS, indexed=indexed).pool(excluded=excluded)
    ids = sorted(set(TEXTS) - excluded)
    everything = np.stack([vector(id_) for id_ in ids])
    queries = np.stack([vector("p01"), vector("p02")])
    for k in (3, 30):
        found = [[(c.id, c.score) for c in best] for best in pool.nearest(queries, k)]
        assert found == [[(h.id, h.score) for h in best] for best in search_shards(queries, [(ids, everything)], k)]


def test_excluded_documents_are_nowhere(store: Store) -> None:
    pool = store.pool(excluded=["p01", "p05", "not-in-the-pool"])
    assert list(pool.ids) == ["p02", "p03", "p07", "p09", "p11"]
    assert pool.share_without_answer == pytest.approx(2 / 5)
    assert {c.id for c in pool.bm25(["diazepam cocaine seizures T cells"], 10)[0]} == {"p11"}
    for ask in (pool.text, pool.num_chars, pool.gold, pool.concepts):
        with pytest.raises(ValueError, match="'p01' is not in the pool: it is excluded"):
            ask("p01")
    with pytest.raises(ValueError, match="'p99' is not in the pool: no shard has it"):
        pool.vectors(["p99"])


def test_bm25_knows_biomedical_compounds_and_their_parts(store: Store) -> None:
    pool = store.pool()
    compound, part, accents, stranger = pool.bm25(["IL-2", "cocaine", "NAÏVE", "zebrafish"], 10)
    assert [c.id for c in compound] == ["p03", "p09"]  # p09 shares the parts of IL-10 and "interleukin 2"
    assert {c.id for c in part} == {"p01", "p11"}
    assert [c.id for c in accents] == ["p05"]
    assert stranger == []
    assert all(c.score > 0 for c in compound)
    assert len(pool.bm25(["a review of seizures after cocaine and diazepam"], 2)[0]) == 2


def test_bm25_breaks_ties_by_id_and_ignores_sharding() -> None:
    queries = [*TEXTS.values(), "seizures", "was by a of the"]
    regrouped = {"x": ["p09", "p02", "p05"], "y": ["p11"], "z": ["p01", "p03", "p07"]}
    for k in (2, 7):
        assert Store(SHARDS).pool().bm25(queries, k) == Store(regrouped).pool().bm25(queries, k)
    TEXTS["p04"] = TEXTS["p02"]
    try:
        [hits] = Store({"x": ["p04"], "y": ["p02", "p05", "p07"]}).pool().bm25(["cisplatin"], 1)
    finally:
        del TEXTS["p04"]
    assert [c.id for c in hits] == ["p02"]


def test_bm25_of_a_pool_without_words() -> None:
    assert Store({"empty": []}).pool().bm25(["cocaine"], 5) == [[]]


def test_a_shard_is_read_again_only_after_it_left_the_cache(store: Store) -> None:
    small = store.pool(max_cached_bytes=1)
    for id_ in ("p07", "p01", "p03", "p03"):
        small.text(id_)
    # surveyed once each, and 00002 stayed last; then 00000, 00001, 00000 again
    assert store.num_reads == {"train-00000": 3, "train-00001": 2, "train-00002": 1}
    roomy_store = Store(SHARDS)
    roomy = roomy_store.pool()
    for id_ in [*TEXTS, *TEXTS]:
        roomy.gold(id_)
        roomy.nearest(vector(id_)[None], 3)
    assert set(roomy_store.num_reads.values()) == {1}


def test_a_small_cache_gives_the_same_answers(store: Store) -> None:
    small, roomy = store.pool(max_cached_bytes=1), store.pool()
    queries = np.stack([vector(id_) for id_ in TEXTS])
    assert small.nearest(queries, 4) == roomy.nearest(queries, 4)
    assert small.bm25(list(TEXTS.values()), 4) == roomy.bm25(list(TEXTS.values()), 4)
    assert [small.gold(id_) for id_ in small.ids] == [roomy.gold(id_) for id_ in roomy.ids]
    np.testing.assert_array_equal(small.vectors(small.ids), roomy.vectors(roomy.ids))


def test_an_id_in_two_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="'p01' is in shard 'a' and again in 'b'"):
        Store({"a": ["p01", "p02"], "b": ["p03", "p01"]}).pool()


def test_a_vector_of_another_corpus_is_refused(store: Store) -> None:
    stale = Loaders(store.documents, lambda _: (["p07", "q1"], np.ones((2, 12), dtype=np.float32)))
    pool = DocumentPool(["train-00000"], stale, gold_of=gold_of, concepts_of=concepts_of)
    with pytest.raises(ValueError, match="'train-00000' has a vector for 'q1' but no such document"):
        pool.nearest(np.ones((1, 12), dtype=np.float32), 2)


def test_a_document_without_a_vector_is_never_near(store: Store) -> None:
    def some(name: str) -> tuple[Sequence[str], np.ndarray]:
        ids = [id_ for id_ in store.shards[name] if id_ != "p03"]
        return ids, np.stack([vector(id_) for id_ in ids])

    pool = DocumentPool(list(SHARDS), Loaders(store.documents, some), gold_of=gold_of, concepts_of=concepts_of)
    assert {c.id for c in pool.nearest(vector("p03")[None], 30)[0]} == set(TEXTS) - {"p03"}
    with pytest.raises(ValueError, match="'p03' of the pool has no vector"):
        pool.vectors(["p07", "p03"])


def test_a_shard_without_vectors_needs_no_index(store: Store) -> None:
    def vectors(name: str) -> tuple[Sequence[str], np.ndarray]:
        return ([], np.empty((0, 12), dtype=np.float32)) if name == "train-00001" else store.vectors(name)

    loaders = Loaders(store.documents, vectors, lambda name: b"" if name == "train-00001" else store.index(name))
    pool = DocumentPool(list(SHARDS), loaders, gold_of=gold_of, concepts_of=concepts_of)
    assert {c.id for c in pool.nearest(vector("p03")[None], 30)[0]} == set(TEXTS) - {"p01", "p05"}


def test_a_pool_without_vectors_says_so(store: Store) -> None:
    pool = DocumentPool(list(SHARDS), Loaders(store.documents), gold_of=gold_of, concepts_of=concepts_of)
    assert pool.bm25(["cisplatin"], 1)[0][0].id == "p02"
    with pytest.raises(ValueError, match="made without vectors"):
        pool.nearest(vector("p01")[None], 3)

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.retrieval.pairs import Pair, gold_share, make_pairs, split_queries

IDS = [f"d{i}" for i in range(12)]


def corpus(gold: dict[str, set[str]]) -> tuple[dict[str, set[str]], dict[str, str]]:
    return gold, {id_: f"text of {id_}" for id_ in gold}


def test_label_is_the_share_of_the_query_and_not_of_the_candidate() -> None:
    assert gold_share({"a", "b", "c", "d"}, {"a", "x", "y"}) == 0.25
    assert gold_share({"a"}, {"a", "b", "c"}) == 1.0
    assert gold_share(set(), {"a"}) == 0.0


def test_best_covering_come_first_then_negatives_that_cover_little() -> None:
    gold, texts = corpus({"q": {"a", "b"}, "n1": {"x"}, "half": {"a"}, "n2": {"y"}, "whole": {"a", "b"}, "other": {"b", "z"}})
    pairs, counts = make_pairs(
        ["q"], {"q": ["n1", "half", "n2", "whole", "other"]}, gold, texts, pairs_per_query=4, nearness_weight=0.0, seed=0
    )
    assert pairs[:2] == [Pair("q", "whole", 1.0), Pair("q", "half", 0.5)]
    assert len(pairs) == 4
    assert {p.candidate_id for p in pairs[2:]} < {"n1", "n2", "other"}
    assert all(p.label <= 0.5 for p in pairs[2:])
    assert counts.queries_used == 1


def test_query_itself_its_text_and_held_out_documents_are_no_candidates() -> None:
    gold, texts = corpus({"q": {"a"}, "twin": {"a"}, "kept": {"a"}, "good": {"a"}, "bad": {"b"}})
    texts["twin"] = f" {texts['q']}\n"
    pairs, counts = make_pairs(
        ["q"], {"q": ["q", "twin", "kept", "good", "bad"]}, gold, texts, pairs_per_query=8, nearness_weight=0.0, seed=0, held_out={"kept"}
    )
    assert pairs == [Pair("q", "good", 1.0), Pair("q", "bad", 0.0)]
    assert (counts.excluded_self, counts.excluded_duplicate_text, counts.excluded_held_out) == (1, 1, 1)


def test_queries_that_teach_nothing_are_counted() -> None:
    gold, texts = corpus({"empty": set(), "alone": {"a"}, "x": {"b"}, "y": {"b"}})
    candidates = {"empty": ["x"], "alone": ["x", "y"], "x": ["y", "alone"]}
    pairs, counts = make_pairs(["alone", "empty", "x"], candidates, gold, texts, pairs_per_query=2, nearness_weight=0.0, seed=0)
    assert {p.query_id for p in pairs} == {"x"}
    assert (counts.queries_used, counts.queries_without_gold, counts.queries_without_positive) == (1, 1, 1)


@given(
    st.dictionaries(st.sampled_from(IDS), st.sets(st.sampled_from("abcd"), max_size=3), min_size=3),
    st.integers(2, 8),
    st.floats(0.0, 1.0),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_pairs_of_a_query_do_not_depend_on_the_other_queries(
    gold: dict[str, set[str]], num: int, weight: float, seed: int, random: object
) -> None:
    gold, texts = corpus(gold)
    ids = sorted(gold)
    candidates = {q: random.sample(ids, len(ids)) for q in ids}  # type: ignore[attr-defined]
    options: dict[str, Any] = {"pairs_per_query": num, "nearness_weight": weight, "seed": seed}
    together, _ = make_pairs(ids, candidates, gold, texts, **options)
    alone = [pair for q in ids for pair in make_pairs([q], candidates, gold, texts, **options)[0]]
    assert together == alone
    for query in ids:
        mine = [p for p in together if p.query_id == query]
        assert len(mine) <= num
        assert len({p.candidate_id for p in mine}) == len(mine)
        best = max(gold_share(gold[query], gold[c]) for c in ids if c != query)
        assert not mine or gold_share(gold[query], gold[mine[0].candidate_id]) == best
        order = [c for c in candidates[query] if c != query]
        for p in mine:
            share, near = gold_share(gold[query], gold[p.candidate_id]) / best, 1 - order.index(p.candidate_id) / len(order)
            assert p.label == pytest.approx((1 - weight) * share + weight * near)
            assert 0.0 <= p.label <= 1.0


def test_label_is_relative_to_the_best_candidate_and_keeps_some_of_the_order_of_the_cosine() -> None:
    gold, texts = corpus({"q": {"a", "b", "c", "d"}, "near": {"x"}, "best": {"a", "b"}, "less": {"a"}, "far": {"y"}})
    candidates = {"q": ["near", "best", "less", "far"]}
    for weight, labels in ((0.0, [1.0, 0.5, 0.0, 0.0]), (0.5, [0.875, 0.5, 0.5, 0.125]), (1.0, [0.75, 0.5, 1.0, 0.25])):
        pairs, _ = make_pairs(["q"], candidates, gold, texts, pairs_per_query=4, nearness_weight=weight, seed=0)
        assert [(p.candidate_id, p.label) for p in pairs] == list(zip(["best", "less", "near", "far"], labels, strict=True))


def test_another_seed_draws_other_negatives() -> None:
    gold, texts = corpus({"q": {"a"}, "good": {"a"}, **{f"n{i}": {"b"} for i in range(20)}})
    candidates = {"q": [id_ for id_ in gold if id_ != "q"]}

    def negatives(seed: int) -> set[str]:
        return {p.candidate_id for p in make_pairs(["q"], candidates, gold, texts, pairs_per_query=6, nearness_weight=0.5, seed=seed)[0]}

    assert negatives(0) == negatives(0)
    assert negatives(0) != negatives(1)


@given(st.sets(st.text("abcdef", min_size=1, max_size=3), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 4))
def test_split_is_disjoint_complete_and_independent_of_order_and_budget(ids: set[str], share: float, seed: int) -> None:
    split = split_queries(ids, share, None, seed)
    assert set(split.train) | set(split.held_out) == ids
    assert not set(split.train) & set(split.held_out)
    assert split.train
    assert split.held_out
    assert split == split_queries(sorted(ids, reverse=True), share, None, seed)
    small = split_queries(ids, share, 2, seed)
    assert small.held_out == split.held_out
    assert set(small.train) <= set(split.train)
    assert len(small.train) == min(2, len(split.train))


def test_split_of_one_document_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="1 training documents have gold answers"):
        split_queries(["a"], 0.1, None, 0)

"""Words in common: test documents inside a record, records that repeat others, languages, draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.config.training import SourceSettings
from bioie_ray.training.instructions.conversation import Conversation
from bioie_ray.training.instructions.draw import drawn, num_copies
from bioie_ray.training.instructions.duplicates import Seen, Signer, answer_words
from bioie_ray.training.instructions.language import is_wanted, language_of
from bioie_ray.training.instructions.mixture import Candidate, mix
from bioie_ray.training.instructions.overlap import OverlapIndex, too_short
from bioie_ray.training.instructions.words import ngram_hashes, word_hashes, words

VOCABULARY = [f"w{n}" for n in range(6)]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=40)


def text(seed: int, num_words: int = 200) -> str:
    return " ".join(f"w{random.Random(f'{seed} {n}').randrange(5_000)}" for n in range(num_words))


def test_words_are_folded_and_han_stands_alone() -> None:
    assert words("Anti-TNFα, ﬁbrosis (IL‐2) 肝炎is") == ["anti", "tnfα", "fibrosis", "il", "2", "肝", "炎", "is"]


@given(WORDS, WORDS, st.integers(5, 8))
def test_an_overlap_is_so_many_words_in_a_row(test: list[str], record: list[str], num_words: int) -> None:
    found = OverlapIndex.build([("c", " ".join(test))], num_words).corpora_in(word_hashes(" ".join(record)))
    length = min(num_words, len(test))
    theirs = {tuple(test[at : at + length]) for at in range(len(test) - length + 1)}
    expected = length >= 5 and any(tuple(record[at : at + length]) in theirs for at in range(len(record) - length + 1))
    assert bool(found) == expected


def test_every_corpus_that_is_in_a_text_is_named() -> None:
    texts = [("a", text(1)), ("b", text(2)), ("c", f"{text(1)} {text(3)}"), ("d", "Too short."), ("a", "Just five words in it")]
    index = OverlapIndex.build(texts, 13)
    inside = " ".join(text(1).split()[50:63])
    assert index.corpora_in(word_hashes(f"Say: “{inside.upper()}”!")) == ["a", "c"]
    assert index.corpora_in(word_hashes(" ".join(text(1).split()[50:62]))) == []
    assert index.corpora_in(word_hashes("Are just five words in it? Too short.")) == ["a"]
    assert too_short(texts) == {"d": 1}


def judge(seen: Seen, signer: Signer, said: str, answer: str, group: str = "") -> str | None:
    return seen.judge(said + answer, group, signer.sign(word_hashes(f"{said} {answer}")), answer_words(answer))


def test_a_signature_estimates_what_texts_have_in_common() -> None:
    signer = Signer()
    for seed in range(5):
        one = text(seed).split()
        other = [*one[: 150 + 10 * seed], *text(seed + 100).split()[: 50 - 10 * seed]]
        sets = [set(ngram_hashes(word_hashes(" ".join(found)), 5).tolist()) for found in (one, other)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        estimate = np.mean(signer.sign(word_hashes(" ".join(one))) == signer.sign(word_hashes(" ".join(other))))
        assert abs(estimate - exact) < 0.15


def test_the_first_of_two_that_say_the_same_stays() -> None:
    signer, seen = Signer(), Seen(0.8)
    assert judge(seen, signer, text(1), "aspirin") is None
    assert judge(seen, signer, text(1), "aspirin") == "exact"
    assert judge(seen, signer, text(1).replace("w", "W") + " more", "aspirin") == "near"
    assert judge(seen, signer, text(2), "aspirin") is None


def test_another_question_about_the_same_text_is_no_duplicate() -> None:
    signer, seen = Signer(), Seen(0.8)
    assert judge(seen, signer, f"Chemicals? {text(1)}", "aspirin; lithium") is None
    assert judge(seen, signer, f"Diseases? {text(1)}", "ulcer; tremor") is None
    assert judge(seen, signer, f"Chemicals! {text(1)}", "aspirin; lithium", group="bc5cdr_chemical/2") is None


def test_without_a_threshold_only_exact_duplicates_go() -> None:
    signer, seen = Signer(), Seen(None)
    assert [judge(seen, signer, said, "a") for said in (text(1), text(1) + ".", text(1))] == [None, None, "exact"]


@pytest.mark.parametrize(
    ("language", "wanted", "kept"),
    [
        ("en", ("en",), True),
        ("zh", ("en",), False),
        ("en-zh", ("en",), False),
        ("en-zh", ("zh", "en"), True),
        ("zh-CN", ("zh",), True),
        ("EN-ZH", ("en",), False),
        ("EN", ("en",), True),
        ("ZH-CN", ("zh",), True),
        ("EN_US", ("en",), True),
        ("中文", ("en",), True),
        ("xx", (), True),
    ],
)
def test_a_translation_needs_both_of_its_languages(language: str, wanted: tuple[str, ...], kept: bool) -> None:
    assert is_wanted(language, wanted) == kept


def test_a_record_that_names_no_language_is_looked_at() -> None:
    turns = ({"role": "user", "content": "请列出文本中的所有疾病。"}, {"role": "assistant", "content": "肝炎"})
    assert language_of(Conversation("i", "s", None, turns)) == "zh"
    assert language_of(Conversation("i", "s", "en", turns)) == "en"


@given(st.sets(st.text(min_size=1, max_size=6), min_size=1, max_size=30), st.integers(1, 30), st.floats(0.05, 3.0), st.integers(0, 3))
def test_draws_have_their_size_and_do_not_depend_on_the_order(ids: set[str], number: int, weight: float, seed: int) -> None:
    there, back = sorted(ids), sorted(ids, reverse=True)
    assert drawn(there, number, seed) == drawn(back, number, seed)
    assert len(drawn(there, number, seed)) == min(number, len(ids))
    assert num_copies(there, weight, seed) == num_copies(back, weight, seed)
    assert abs(sum(num_copies(there, weight, seed).values()) - weight * len(ids)) <= 0.5
    assert max(num_copies(there, weight, seed).values()) - min(num_copies(there, weight, seed).values()) <= 1


def candidates(entry: int, number: int, *, ids: int | None = None) -> list[Candidate]:
    signer = Signer()
    said = [text(1_000 * entry + n, 30) for n in range(number)]
    return [
        Candidate(entry, (entry, n), f"s{entry}/{n % (ids or number)}", one, "", signer.sign(word_hashes(one)).tolist(), answer_words(one))
        for n, one in enumerate(said)
    ]


def source(**settings: Any) -> SourceSettings:
    return SourceSettings(kind="taiyi", path="somewhere", **settings)


def test_sources_are_drawn_and_weighted_and_every_record_is_accounted_for() -> None:
    sources = [source(max_records=10, weight=2.5), source(weight=0.5), source()]
    given_ = [*candidates(0, 20), *candidates(1, 8), *candidates(2, 5)]
    mixture = mix([*given_, *given_[:3]], sources, 0.9, seed=4)
    first, second, third = mixture.entries
    assert (first.records, first.exact_duplicates, first.not_drawn, first.copies, first.rows) == (23, 3, 10, 15, 25)
    assert (second.records, second.left_by_weight, second.rows) == (8, 4, 4)
    assert third.rows == third.records == 5
    for entry in mixture.entries:
        lost = entry.exact_duplicates + entry.near_duplicates + entry.not_drawn + entry.left_by_weight
        assert entry.rows == entry.records - lost + entry.copies
    assert len(mixture.rows) == len({row.id for row in mixture.rows}) == 34
    assert [row.id for row in mixture.rows] != sorted(row.id for row in mixture.rows)


def test_the_order_in_which_records_come_changes_nothing_but_which_duplicate_stays() -> None:
    sources, given_ = [source(max_records=6), source(weight=1.5)], [*candidates(0, 12), *candidates(1, 9)]
    assert mix(given_, sources, 0.9, seed=1).rows == mix(given_[::-1], sources, 0.9, seed=1).rows
    assert mix(given_, sources, 0.9, seed=1).rows != mix(given_, sources, 0.9, seed=2).rows


def test_ids_that_come_again_are_told_apart() -> None:
    mixture = mix(candidates(0, 6, ids=2), [source(weight=2)], None, seed=0)
    assert len({row.id for row in mixture.rows}) == 12
    assert {"s0/0", "s0/0#2", "s0/0#3~2"} < {row.id for row in mixture.rows}

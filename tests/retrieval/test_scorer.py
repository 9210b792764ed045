from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from bioie_ray.config.steps import RerankSettings
from bioie_ray.retrieval.scorer import PairScorer, close_calls

TEXTS = [
    "Aspirin causes tinnitus in patients.",
    "Acute renal failure caused by ibuprofen. " * 9,
    "rash",
    "",
    "Liver failure after aspirin and ibuprofen in patients with heart failure. " * 3,
    "The heart and the liver " * 20,
    "patients with tinnitus, rash; and (acute) failure",
]
ALL_PAIRS = np.array([(a, b) for a in range(len(TEXTS)) for b in range(len(TEXTS))])


def settings(**changes: object) -> RerankSettings:
    return RerankSettings.model_validate({"max_length": 128, "batch_tokens": 512, **changes})


@pytest.fixture(params=["bert_reranker", "roberta_reranker"], scope="module")
def reranker(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def predicted(reranker: Path, pairs: np.ndarray = ALL_PAIRS) -> np.ndarray:
    """What sentence-transformers says, one pair at a time."""
    model = CrossEncoder(str(reranker), device="cpu", max_length=128, activation_fn=torch.nn.Sigmoid())
    return np.array([model.predict([(TEXTS[a], TEXTS[b])])[0] for a, b in pairs])


def test_scores_are_those_of_sentence_transformers(reranker: Path) -> None:
    scored = PairScorer(settings(), str(reranker)).score(TEXTS, ALL_PAIRS)
    expected = predicted(reranker)
    assert scored.scores.dtype == np.float32
    assert np.ptp(expected) > 0.2, "the comparison means something"
    np.testing.assert_allclose(scored.scores, expected, atol=1e-5)
    assert scored.reasons == {}


def test_truncated_pairs_are_those_that_do_not_fit(reranker: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reranker)
    full = [len(tokenizer(TEXTS[a], TEXTS[b], truncation=False)["input_ids"]) for a, b in ALL_PAIRS]
    truncated = PairScorer(settings(), str(reranker)).score(TEXTS, ALL_PAIRS).truncated
    assert truncated.tolist() == [length > 128 for length in full]
    assert truncated.any()
    assert not truncated.all()


def test_scores_do_not_depend_on_threads(reranker: Path) -> None:
    one, two = (PairScorer(settings(threads=threads), str(reranker)).score(TEXTS, ALL_PAIRS).scores for threads in (1, 2))
    assert one.tobytes() == two.tobytes()


def test_a_saved_activation_does_not_replace_the_sigmoid(bert_reranker: Path, tmp_path: Path) -> None:
    model = CrossEncoder(str(bert_reranker), device="cpu", activation_fn=torch.nn.Identity())
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    pairs = ALL_PAIRS[:8]
    scored = PairScorer(settings(), str(tmp_path / "saved")).score(TEXTS, pairs)
    np.testing.assert_allclose(scored.scores, predicted(bert_reranker, pairs), atol=1e-5)


def test_a_text_that_cannot_be_tokenised_costs_only_its_pairs(reranker: Path) -> None:
    texts = [*TEXTS, "a lone surrogate \ud800"]
    bad = len(TEXTS)
    pairs = np.array([(0, 1), (0, bad), (2, 4), (bad, bad), (6, 5)])
    scored = PairScorer(settings(), str(reranker)).score(texts, pairs)
    assert np.flatnonzero(np.isnan(scored.scores)).tolist() == [1, 3]
    assert sorted(scored.reasons) == [1, 3]
    np.testing.assert_allclose(scored.scores[[0, 2, 4]], predicted(reranker, pairs[[0, 2, 4]]), atol=1e-5)


def test_a_pair_that_the_model_cannot_take_costs_only_itself(bert_reranker: Path, tmp_path: Path) -> None:
    """A vocabulary that is larger than the model's table: the last word has no row there."""
    folder = tmp_path / "model"
    shutil.copytree(bert_reranker, folder)
    tokenizer = AutoTokenizer.from_pretrained(bert_reranker)
    tokenizer.add_tokens(["paracetamol"])
    tokenizer.save_pretrained(folder)
    texts = [*TEXTS, "paracetamol"]
    pairs = np.array([(query, candidate) for query in (0, 2) for candidate in range(len(texts))])
    scored = PairScorer(settings(batch_tokens=4096), str(folder)).score(texts, pairs)
    bad = [7, 15]
    assert np.flatnonzero(np.isnan(scored.scores)).tolist() == bad
    assert all("IndexError" in scored.reasons[row] for row in bad)
    good = [row for row in range(len(pairs)) if row not in bad]
    np.testing.assert_allclose(scored.scores[good], predicted(bert_reranker, pairs[good]), atol=1e-5)


def test_a_score_that_is_not_a_number_has_a_reason(bert_reranker: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert_reranker, folder)
    model = BertForSequenceClassification.from_pretrained(bert_reranker)
    word = AutoTokenizer.from_pretrained(bert_reranker).convert_tokens_to_ids("tinnitus")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[word] = float("nan")
    model.save_pretrained(folder)
    scored = PairScorer(settings(), str(folder)).score(TEXTS, np.array([(2, 4), (2, 0)]))
    assert np.isfinite(scored.scores).tolist() == [True, False]
    assert scored.reasons == {1: "its score is not a number"}


def test_no_pairs_give_no_scores(bert_reranker: Path) -> None:
    scored = PairScorer(settings(), str(bert_reranker)).score(TEXTS, np.zeros((0, 2), dtype=np.int64))
    assert scored.scores.shape == scored.truncated.shape == (0,)


def test_models_that_give_several_scores_are_refused(bert_reranker: Path, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(bert_reranker, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert_reranker).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="3 scores a pair"):
        PairScorer(settings(), str(tmp_path))


def test_a_length_beyond_the_model_is_refused_with_the_one_that_would_do(reranker: Path) -> None:
    with pytest.raises(ValueError, match=r"set rerank\.max_length=128"):
        PairScorer(settings(max_length=512), str(reranker))


def top(scores: np.ndarray, keep: int) -> list[set[int]]:
    """The kept candidates of each query of ``ALL_PAIRS``."""
    return [set(np.argsort(-row, kind="stable")[:keep].tolist()) for row in scores.reshape(len(TEXTS), -1)]


def test_a_second_look_gives_the_kept_sets_of_float32(bert_reranker: Path) -> None:
    exact = PairScorer(settings(), str(bert_reranker)).score(TEXTS, ALL_PAIRS).scores
    low = PairScorer(settings(dtype="bfloat16"), str(bert_reranker)).score(TEXTS, ALL_PAIRS).scores
    error = float(np.abs(low - exact).max())
    assert 0 < error < 0.2
    scored = PairScorer(settings(dtype="bfloat16", rescore_margin=min(1.0, 2 * error)), str(bert_reranker)).score_for_top(
        TEXTS, ALL_PAIRS, keep=3
    )
    assert top(scored.scores, 3) == top(exact, 3)
    assert 0 < scored.num_rescored < len(ALL_PAIRS)
    changed = scored.scores != low
    assert 0 < changed.sum() <= scored.num_rescored
    np.testing.assert_allclose(scored.scores[changed], exact[changed], atol=1e-5)


def test_without_a_margin_there_is_no_second_look(bert_reranker: Path) -> None:
    scorer = PairScorer(settings(dtype="bfloat16"), str(bert_reranker))
    assert scorer.score_for_top(TEXTS, ALL_PAIRS, 3).scores.tobytes() == scorer.score(TEXTS, ALL_PAIRS).scores.tobytes()


def test_close_calls_are_those_around_the_last_kept_one() -> None:
    scores = np.array([0.9, 0.52, 0.50, 0.49, 0.1, np.nan], dtype=np.float32)
    queries = np.zeros(6, dtype=np.int64)
    assert close_calls(queries, scores, keep=3, margin=0.03).tolist() == [1, 2, 3]
    assert close_calls(queries, scores, keep=1, margin=0.03).tolist() == [], "the first one is clear"
    assert close_calls(queries, scores, keep=5, margin=1.0).tolist() == [], "all that have a score are kept"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000)), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(0, 50),
    st.randoms(use_true_random=False),
)
def test_errors_within_half_the_margin_cannot_change_a_kept_set(rows: list[tuple[int, int]], keep: int, error: int, random: object) -> None:
    """Scores in thousandths, so that sums are exact; the second look gives the exact score back."""
    queries = np.array([query for query, _ in rows])
    exact = np.array([score for _, score in rows])
    low = exact + np.array([random.randint(-error, error) for _ in rows])  # type: ignore[attr-defined]
    mixed = low.copy()
    close = close_calls(queries, low.astype(np.float32), keep, 2 * error)
    mixed[close] = exact[close]
    for query in set(queries.tolist()):
        mine = queries == query
        kept_exact, kept_mixed = (np.sort(scores[mine])[::-1][:keep] for scores in (exact, mixed))
        chosen = np.argsort(-mixed[mine], kind="stable")[:keep]
        assert sorted(exact[mine][chosen].tolist(), reverse=True) == kept_exact.tolist(), kept_mixed

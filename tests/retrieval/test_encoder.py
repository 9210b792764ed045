from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from bioie_ray.config.steps import EmbedSettings
from bioie_ray.retrieval.encoder import Encoder

TEXTS = [
    "Aspirin causes tinnitus.",
    "",
    "Acute renal failure caused by ibuprofen in patients with liver failure. " * 6,
    "rash",
    "The heart of a patient after aspirin, " * 3,
    "ünïcödé 💊",
]


@pytest.fixture(scope="module")
def encoder(tiny_embedder: Path) -> Encoder:
    return Encoder(EmbedSettings(model=str(tiny_embedder), max_seq_length=64, batch_tokens=256))


def test_vectors_are_those_of_sentence_transformers(encoder: Encoder, tiny_embedder: Path) -> None:
    reference = SentenceTransformer(str(tiny_embedder), device="cpu")
    reference.max_seq_length = 64
    vectors = encoder.encode(TEXTS).vectors
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, reference.encode(TEXTS, normalize_embeddings=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_the_packaged_model_gives_its_own_vectors() -> None:
    pytest.importorskip("all_minilm_l6_v2", reason="the extra `offline` is not installed")
    from bioie_ray.retrieval.models import resolve_model

    reference = SentenceTransformer(str(resolve_model("offline:all-minilm-l6-v2")), device="cpu")
    encoded = Encoder(EmbedSettings()).encode(TEXTS)
    assert encoded.vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(encoded.vectors, reference.encode(TEXTS, normalize_embeddings=True), atol=1e-5)


def test_cut_texts_are_counted_with_their_full_length(encoder: Encoder) -> None:
    encoded = encoder.encode(TEXTS)
    assert encoded.truncated.tolist() == [False, False, True, False, False, False]
    assert encoded.num_tokens[1] == 2  # an empty text is its two special tokens
    assert encoded.num_tokens[2] == 2 + 6 * 12
    assert encoded.num_tokens.dtype == np.int32


def test_what_lies_beyond_the_cut_changes_nothing(encoder: Encoder) -> None:
    long = "liver " * 100
    assert np.array_equal(encoder.encode([long]).vectors, encoder.encode([long + "heart"]).vectors)


def test_vectors_do_not_depend_on_threads(encoder: Encoder, tiny_embedder: Path) -> None:
    two = Encoder(EmbedSettings(model=str(tiny_embedder), max_seq_length=64, batch_tokens=256, threads=2))
    assert encoder.encode(TEXTS).vectors.tobytes() == two.encode(TEXTS).vectors.tobytes()


def test_a_model_of_low_precision_still_gives_unit_vectors(encoder: Encoder, tiny_embedder: Path) -> None:
    low = Encoder(EmbedSettings(model=str(tiny_embedder), max_seq_length=64, dtype="bfloat16")).encode(TEXTS).vectors
    exact = encoder.encode(TEXTS).vectors
    assert low.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(low, axis=1), 1.0, atol=1e-6)
    assert not np.array_equal(low, exact)
    assert (low * exact).sum(axis=1).min() > 0.98


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    encoded = encoder.encode([])
    assert encoded.vectors.shape == (0, 32)
    assert encoded.num_tokens.shape == encoded.truncated.shape == (0,)


def test_more_tokens_than_the_model_takes_are_refused_with_the_number_that_would_do(tiny_embedder: Path) -> None:
    with pytest.raises(ValueError, match=r"set embed\.max_seq_length=128"):
        Encoder(EmbedSettings(model=str(tiny_embedder), max_seq_length=129))

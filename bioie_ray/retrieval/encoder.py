"""Texts to unit vectors, by any sentence-transformers model, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from bioie_ray.config.steps import EmbedSettings
from bioie_ray.retrieval.batching import token_budget_batches
from bioie_ray.retrieval.models import resolve_model


@dataclass(frozen=True, slots=True)
class Encoded:
    """``vectors`` float32 [n, dim], unit length; ``num_tokens`` int32 [n] before the cut, ``truncated`` bool [n]."""

    vectors: npt.NDArray[np.float32]
    num_tokens: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]


class Encoder:
    """Holds the model. What it returns is a function of the list of texts: batches depend on nothing else."""

    def __init__(self, settings: EmbedSettings) -> None:
        """Load the model.

        Raises:
            ModelError: there is none at ``settings.model``.
        """
        torch.set_num_threads(settings.threads)
        self._settings = settings
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = SentenceTransformer(
            str(resolve_model(settings.model)), device=device, model_kwargs={"torch_dtype": getattr(torch, settings.dtype)}
        )
        self._model.max_seq_length = settings.max_seq_length
        self._model.eval()

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._model.get_sentence_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The unit vectors of ``texts``, in their order."""
        lengths = self.num_tokens(texts)
        limit = self._settings.max_seq_length
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for batch in token_budget_batches(np.minimum(lengths, limit), self._settings.batch_tokens):
            vectors[batch] = self._model.encode(
                [texts[i] for i in batch], batch_size=len(batch), convert_to_numpy=True, show_progress_bar=False
            ).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, norms, out=vectors, where=norms > 0)
        return Encoded(vectors, lengths, lengths > limit)

    def num_tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Tokens of each text [n], special tokens included, before any cut."""
        if not texts:
            return np.zeros(0, dtype=np.int32)
        encoded = self._model.tokenizer(list(texts), truncation=False, padding=False, return_attention_mask=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int32)

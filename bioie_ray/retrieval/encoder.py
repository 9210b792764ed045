"""Texts to unit vectors, by any sentence-transformers model, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from bioie_ray.config.steps import EmbedSettings
from bioie_ray.execution.linear_layers import by_onednn
from bioie_ray.retrieval.batching import is_out_of_memory, token_budget_batches
from bioie_ray.retrieval.lanes import run_in_lanes
from bioie_ray.retrieval.models import max_positions, resolve_model

# Queries and documents are texts of one kind here, compared both ways: a model's own "query: " or "passage: " would favour one.
_NO_PROMPT = ""


@dataclass(frozen=True, slots=True)
class Encoded:
    """``vectors`` float32 [n, dim], unit length; ``num_tokens`` int32 [n] before the cut, ``truncated`` bool [n]."""

    vectors: npt.NDArray[np.float32]
    num_tokens: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]


class Encoder:
    """Holds the model. What it returns is a function of the list of texts, not of ``threads``: batches depend on nothing else."""

    def __init__(self, settings: EmbedSettings) -> None:
        """Load the model.

        Raises:
            ModelError: there is none at ``settings.model``.
            ValueError: it takes fewer tokens than ``settings.max_seq_length``.
        """
        self._settings = settings
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = SentenceTransformer(
            str(resolve_model(settings.model)), device=self._device, model_kwargs={"dtype": getattr(torch, settings.dtype)}
        )
        limit = max_positions(self._model)
        if limit is not None and settings.max_seq_length > limit:
            raise ValueError(
                f"embed.max_seq_length is {settings.max_seq_length} but {settings.model} takes {limit} tokens; "
                f"set embed.max_seq_length={limit}"
            )
        self._model.max_seq_length = settings.max_seq_length
        self._model.eval()
        by_onednn(self._model)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The unit vectors of ``texts``, in their order; an empty text gets one too, of its special tokens.

        Raises:
            MemoryError: a batch does not fit; the message names the setting.
        """
        lengths = self.num_tokens(texts)
        limit = self._settings.max_seq_length
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        batches = token_budget_batches(np.minimum(lengths, limit), self._settings.batch_tokens)
        # The tokenizer is not made for two threads at once; the model is.
        inputs = (self._model.preprocess([texts[i] for i in batch], prompt=_NO_PROMPT) for batch in batches)
        threads = 1 if self._device == "cuda" else self._settings.threads
        for batch, embedded in zip(batches, run_in_lanes(self._embed, inputs, threads), strict=True):
            vectors[batch] = embedded
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        return Encoded((vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32), lengths, lengths > limit)

    def num_tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Tokens of each text [n], special tokens included, before any cut."""
        if not texts:
            return np.zeros(0, dtype=np.int32)
        encoded = self._model.tokenizer(list(texts), truncation=False, padding=False, return_attention_mask=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int32)

    def _embed(self, inputs: dict[str, torch.Tensor]) -> npt.NDArray[np.float32]:
        moved = {name: value.to(self._device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        try:
            embedded: npt.NDArray[np.float32] = self._model(moved)["sentence_embedding"][:, : self.dimensions].float().cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            tokens = inputs["input_ids"].numel()
            raise MemoryError(f"no memory for a batch of {tokens} tokens; set embed.batch_tokens below {tokens}") from error
        return embedded

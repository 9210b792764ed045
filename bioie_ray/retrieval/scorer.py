"""Pairs of texts to relevance scores, by any cross-encoder of sentence-transformers.

What makes it faster than one call a query: every text is tokenised once, pairs of many queries are sorted by length together,
a batch is filled up to a budget of padded tokens, so next to nothing is padding, and no layer computes what no score depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import CrossEncoder

from bioie_ray.config.steps import RerankSettings
from bioie_ray.execution.linear_layers import by_onednn
from bioie_ray.retrieval.batching import bisect, is_out_of_memory, token_budget_batches
from bioie_ray.retrieval.first_token import shorten_last_layer
from bioie_ray.retrieval.lanes import run_in_lanes
from bioie_ray.retrieval.models import max_positions, resolve_model
from bioie_ray.retrieval.pair_tokens import PairTemplate, TokenisedPairs, read_template, tokenise

Pairs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Two pairs of unlike length, so that one is padded.
_PROBE = [("a short text", "a longer text, so that the other pair is padded"), ("one", "two")]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of pairs, in their order.

    Attributes:
        scores: float32 [m], sigmoid of the logit; NaN where a pair cannot be scored.
        truncated: bool [m], which pairs were cut to ``max_length``.
        reasons: why a pair has no score, by position.
        num_rescored: pairs that got a second look in float32.
    """

    scores: Floats
    truncated: npt.NDArray[np.bool_]
    reasons: dict[int, str] = field(default_factory=dict)
    num_rescored: int = 0


class _PairBatches(Protocol):
    lengths: Pairs
    truncated: npt.NDArray[np.bool_]

    def collate(self, rows: Pairs) -> dict[str, Any]: ...


class PairScorer:
    """Holds the model. Scores are a function of the texts and pairs of one call, not of ``threads``."""

    def __init__(self, settings: RerankSettings, model: str) -> None:
        """Load the cross-encoder at ``model``: a folder, a hub id or ``offline:NAME``.

        Raises:
            ModelError: there is none.
            ValueError: it gives more than one score, or takes fewer tokens than ``settings.max_length``.
        """
        self._settings = settings
        self._path = str(resolve_model(model))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._models: dict[str, CrossEncoder] = {settings.dtype: self._load(settings.dtype)}
        encoder = self._models[settings.dtype]
        if encoder.num_labels != 1:
            raise ValueError(f"{model} gives {encoder.num_labels} scores a pair, a reranker gives one; set rerank.model to such a model")
        limit = max_positions(encoder)
        if limit is not None and settings.max_length > limit:
            raise ValueError(f"rerank.max_length is {settings.max_length} but {model} takes {limit} tokens; set rerank.max_length={limit}")
        self._template = _template_of(encoder)

    def score(self, texts: Sequence[str], pairs: Pairs) -> Scored:
        """Scores of ``pairs`` [m, 2] of positions in ``texts``: (query, candidate)."""
        return self._score(self._settings.dtype, texts, pairs)

    def score_for_top(self, texts: Sequence[str], pairs: Pairs, keep: int) -> Scored:
        """As ``score``; with ``rescore_margin``, pairs near a query's ``keep``-th score are scored again in float32.

        A query is a value of the first column. Scores of the second look replace those of the first, so whether a pair is
        among the kept ones is decided in float32 wherever it was close; the order of the clear ones stays that of the first look.
        """
        first = self.score(texts, pairs)
        margin = self._settings.rescore_margin
        if not margin:
            return first
        close = close_calls(pairs[:, 0], first.scores, keep, margin)
        second = self._score("float32", texts, pairs[close])
        scores = first.scores.copy()
        scores[close] = second.scores
        reasons = {**first.reasons, **{int(close[i]): why for i, why in second.reasons.items()}}
        return Scored(scores, first.truncated, reasons, len(close))

    def _load(self, dtype: str) -> CrossEncoder:
        encoder: CrossEncoder = CrossEncoder(self._path, device=self._device, model_kwargs={"dtype": torch.float32})
        encoder.eval()
        encoder.max_seq_length = self._settings.max_length
        if encoder.model is not None:
            shorten_last_layer(encoder.model, {name: value.to(self._device) for name, value in _tensors(encoder, _PROBE).items()})
        encoder.to(getattr(torch, dtype))
        by_onednn(encoder)
        return encoder

    def _score(self, dtype: str, texts: Sequence[str], pairs: Pairs) -> Scored:
        if dtype not in self._models:
            self._models[dtype] = self._load(dtype)
        model = self._models[dtype]
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        used, places = np.unique(pairs, return_inverse=True)
        pairs = places.reshape(-1, 2)
        unreadable, batches = self._tokenise([texts[i] for i in used], pairs)
        reasons = {row: unreadable[text] for row, pair in enumerate(pairs.tolist()) for text in pair if text in unreadable}
        rows = np.setdiff1d(np.arange(len(pairs)), list(reasons))
        scores = np.full(len(pairs), np.nan, dtype=np.float32)
        jobs = [rows[batch] for batch in token_budget_batches(batches.lengths[rows], self._settings.batch_tokens)]
        threads = 1 if self._device == "cuda" else self._settings.threads
        for done, failed in run_in_lanes(partial(self._score_batch, model, batches), jobs, threads):
            for part, logits in done:
                scores[part] = torch.sigmoid(logits).cpu().numpy()
            reasons |= failed
        reasons |= {int(row): "its score is not a number" for row in rows if not np.isfinite(scores[row]) and int(row) not in reasons}
        return Scored(np.where(np.isfinite(scores), scores, np.nan).astype(np.float32), batches.truncated, reasons)

    def _tokenise(self, texts: Sequence[str], pairs: Pairs) -> tuple[dict[int, str], _PairBatches]:
        """Texts that the tokenizer refuses, with the reason, and the pairs ready to be cut into batches."""
        encoder = self._models[self._settings.dtype]
        parts, unreadable = bisect(lambda rows: tokenise(encoder.tokenizer, [texts[i] for i in rows]), np.arange(len(texts)))
        tokens: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * len(texts)
        for rows, ids in parts:
            for row, of_row in zip(rows.tolist(), ids, strict=True):
                tokens[row] = of_row
        if self._template is not None:
            return unreadable, TokenisedPairs(self._template, tokens, pairs, self._settings.max_length)
        return unreadable, _TextPairs(encoder, texts, tokens, pairs, self._settings.max_length)

    def _score_batch(
        self, model: CrossEncoder, batches: _PairBatches, rows: Pairs
    ) -> tuple[list[tuple[Pairs, torch.Tensor]], dict[int, str]]:
        """Logits of a batch, in parts where it had to be halved to single out what fails."""

        def logits(part: Pairs) -> torch.Tensor:
            inputs = {
                name: torch.as_tensor(value).to(self._device) if isinstance(value, np.ndarray | torch.Tensor) else value
                for name, value in batches.collate(part).items()
            }
            result: torch.Tensor = model(inputs)["scores"]
            return result.reshape(-1).float()

        try:
            return bisect(logits, rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            tokens = int(batches.lengths[rows].max()) * len(rows)
            raise MemoryError(f"no memory for a batch of {tokens} tokens; set rerank.batch_tokens below {tokens}") from error


class _TextPairs:
    """Pairs for models whose tokenizer must see both texts at once (chat templates and the like); lengths are near, not exact."""

    def __init__(
        self, encoder: CrossEncoder, texts: Sequence[str], tokens: Sequence[npt.NDArray[np.int64]], pairs: Pairs, max_length: int
    ) -> None:
        self._encoder, self._texts, self._pairs = encoder, texts, pairs
        sizes = np.array([len(ids) for ids in tokens], dtype=np.int64)
        full = sizes[pairs].sum(axis=1) + len(encoder.preprocess([("", "")])["input_ids"][0])
        self.lengths = np.minimum(full, max_length)
        self.truncated: npt.NDArray[np.bool_] = full > max_length

    def collate(self, rows: Pairs) -> dict[str, Any]:
        inputs: dict[str, Any] = self._encoder.preprocess([(self._texts[a], self._texts[b]) for a, b in self._pairs[rows]])
        return inputs


def _template_of(encoder: CrossEncoder) -> PairTemplate | None:
    """The tokenizer's template, if joining ids by it is all that the model's own preparation of a pair does."""
    template = read_template(encoder.tokenizer)
    if template is None:
        return None
    tokens = tokenise(encoder.tokenizer, [text for pair in _PROBE for text in pair])
    pairs = np.arange(len(tokens), dtype=np.int64).reshape(-1, 2)
    ours = TokenisedPairs(template, tokens, pairs, max_length=int(encoder.max_seq_length or 512)).collate(np.arange(len(pairs)))
    theirs = _tensors(encoder, _PROBE)
    same = ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name].numpy()) for name in ours)
    return template if same else None


def _tensors(encoder: CrossEncoder, pairs: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in encoder.preprocess(pairs).items() if isinstance(value, torch.Tensor)}


def close_calls(queries: Pairs, scores: Floats, keep: int, margin: float) -> Pairs:
    """Positions of the pairs [m] whose score lies within ``margin`` of their query's ``keep``-th best; rising.

    None for a query with at most ``keep`` scored pairs: all of them are kept whatever a second look says. Nor for a query whose
    last kept pair and first dropped pair lie further apart than ``margin``.
    """
    close: list[int] = []
    for query in np.unique(queries):
        mine = np.flatnonzero((queries == query) & np.isfinite(scores))
        if len(mine) <= keep:
            continue
        ranked = np.sort(scores[mine])[::-1]
        if ranked[keep - 1] - ranked[keep] <= margin:
            close += mine[np.abs(scores[mine] - ranked[keep - 1]) <= margin].tolist()
    return np.array(sorted(close), dtype=np.int64)

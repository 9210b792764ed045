"""Pairs of texts to relevance scores, by any cross-encoder of sentence-transformers.

What makes it faster than one call a query: every text is tokenised once, pairs of many queries are sorted by length together,
and a batch is filled up to a budget of padded tokens, so next to nothing is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import CrossEncoder

from bioie_ray.config.steps import RerankSettings
from bioie_ray.retrieval.batching import token_budget_batches
from bioie_ray.retrieval.models import resolve_model

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scored:
    """``scores`` float32 [m], sigmoid of the logit, NaN where a pair cannot be scored (``reasons`` says why, by position);
    ``truncated`` bool [m]."""

    scores: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]
    reasons: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Template:
    """How the tokenizer joins a pair: special tokens before, between and after, and the type ids of both halves."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, int, int, int, int] | None

    @property
    def num_special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class PairScorer:
    """Holds the model; scores are a function of texts and pairs of one call."""

    def __init__(self, settings: RerankSettings, model: str) -> None:
        """Load the cross-encoder.

        Raises:
            ModelError: there is none.
            ValueError: it has more than one output.
        """
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._path = str(resolve_model(model))
        encoder = self._load(settings.dtype)
        if encoder.model.config.num_labels != 1:
            raise ValueError(f"{model} gives {encoder.model.config.num_labels} scores a pair; a reranker gives one")
        self._model = encoder.model
        self._exact: Any = self._model if settings.dtype == "float32" else None
        self._tokenizer = encoder.tokenizer
        self._template = _probe(self._tokenizer)

    def score(self, texts: Sequence[str], pairs: Pairs) -> Scored:
        """Scores of ``pairs`` [m, 2] of positions in ``texts``: (query, candidate)."""
        return self._score(self._model, texts, pairs)

    def score_for_top(self, texts: Sequence[str], pairs: Pairs, keep: int) -> Scored:
        """As ``score``; with ``rescore_margin``, pairs near a query's ``keep``-th score are scored again in float32.

        A query is a value of the first column. Scores of the second look replace those of the first, so whether a pair
        belongs to the kept ones is decided in float32 wherever it was close.
        """
        first = self._score(self._model, texts, pairs)
        margin = self._settings.rescore_margin
        if not margin:
            return first
        close = _close_calls(pairs[:, 0], first.scores, keep, margin)
        if self._exact is None:
            self._exact = self._load("float32").model
        second = self._score(self._exact, texts, pairs[close])
        scores = first.scores.copy()
        scores[close] = second.scores
        return Scored(scores, first.truncated, {**first.reasons, **{int(close[i]): why for i, why in second.reasons.items()}})

    def _load(self, dtype: str) -> CrossEncoder:
        encoder = CrossEncoder(self._path, device=self._device, model_kwargs={"torch_dtype": getattr(torch, dtype)})
        encoder.model.eval()
        return encoder

    def _score(self, model: Any, texts: Sequence[str], pairs: Pairs) -> Scored:
        used = np.unique(pairs)
        tokens = dict(zip(used.tolist(), self._tokenise([texts[i] for i in used]), strict=True))
        room = self._settings.max_length - self._template.num_special
        halves = [_cut(tokens[a], tokens[b], room) for a, b in pairs.tolist()]
        truncated = np.array([len(tokens[a]) + len(tokens[b]) > room for a, b in pairs.tolist()], dtype=np.bool_)
        lengths = [len(a) + len(b) + self._template.num_special for a, b in halves]
        scores = np.full(len(pairs), np.nan, dtype=np.float32)
        reasons: dict[int, str] = {}
        for batch in token_budget_batches(lengths, self._settings.batch_tokens):
            self._score_batch(model, halves, batch, scores, reasons)
        return Scored(scores, truncated, reasons)

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=False, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def _score_batch(
        self, model: Any, halves: Sequence[tuple[list[int], list[int]]], batch: Pairs, scores: npt.NDArray[np.float32], reasons: dict[int, str]
    ) -> None:
        """Fill in the scores of a batch; where it fails, halve it, down to the pair that is at fault."""
        try:
            inputs = self._collate([halves[i] for i in batch])
            with torch.inference_mode():
                logits = model(**inputs).logits.reshape(-1).float()
                scores[batch] = torch.sigmoid(logits).cpu().numpy()
        except Exception as error:
            if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
                raise
            if len(batch) == 1:
                reasons[int(batch[0])] = f"{type(error).__name__}: {error}"
                return
            middle = len(batch) // 2
            for part in (batch[:middle], batch[middle:]):
                self._score_batch(model, halves, part, scores, reasons)

    def _collate(self, halves: Sequence[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        template = self._template
        rows = [template.before + a + template.between + b + template.after for a, b in halves]
        width = max(map(len, rows))
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        inputs = {"input_ids": ids, "attention_mask": mask}
        if template.types is not None:
            before, first, between, second, after = template.types
            types = [
                [before] * len(template.before)
                + [first] * len(a)
                + [between] * len(template.between)
                + [second] * len(b)
                + [after] * len(template.after)
                for a, b in halves
            ]
            inputs["token_type_ids"] = torch.tensor([row + [0] * (width - len(row)) for row in types])
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}


def _cut(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Both texts cut to ``room`` tokens together, fairly: the longer one gives first, then both alike.

    The same result as the tokenizers' ``longest_first``: a text shorter than half of the room stays whole.
    """
    a, b = len(first), len(second)
    if a + b <= room:
        return first, second
    small = room // 2
    if min(a, b) <= small:
        a, b = (a, room - a) if a <= b else (room - b, b)
    elif a <= b:
        a, b = small, room - small
    else:
        a, b = room - small, small
    return first[:a], second[:b]


def _probe(tokenizer: Any) -> _Template:
    """Find out how a tokenizer joins a pair by joining one: any family (BERT, RoBERTa, ...) without a table of families."""
    left, right = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("left", "right"))
    joined = tokenizer("left", "right")
    ids: list[int] = joined["input_ids"]
    start = _find(ids, left, 0)
    middle = start + len(left)
    second = _find(ids, right, middle)
    end = second + len(right)
    before, between, after = ids[:start], ids[middle:second], ids[end:]
    types = joined.get("token_type_ids")
    if types is None or "token_type_ids" not in tokenizer.model_input_names:
        return _Template(before, between, after, None)

    def type_at(position: int, default: int) -> int:
        return int(types[position]) if 0 <= position < len(types) else default

    return _Template(
        before,
        between,
        after,
        (type_at(0, 0), type_at(start, 0), type_at(middle, 0), type_at(second, 1), type_at(len(ids) - 1, 1)),
    )


def _find(ids: list[int], part: list[int], start: int) -> int:
    for position in range(start, len(ids) - len(part) + 1):
        if ids[position : position + len(part)] == part:
            return position
    raise ValueError("this tokenizer changes a text when it is half of a pair; it cannot be tokenised once for all pairs")


def _close_calls(queries: Pairs, scores: npt.NDArray[np.float32], keep: int, margin: float) -> Pairs:
    """Positions of pairs within ``margin`` of their query's ``keep``-th score."""
    close: list[int] = []
    for query in np.unique(queries):
        mine = np.flatnonzero(queries == query)
        ranked = np.sort(scores[mine])[::-1]
        edge = ranked[min(keep, len(ranked)) - 1]
        close += mine[np.abs(scores[mine] - edge) <= margin].tolist()
    return np.array(sorted(close), dtype=np.int64)

"""Rows of token shards as the tensors of a forward pass: packed or padded conversations, and pairs of answers.

Shapes: ``B`` rows of a micro-batch, ``L`` tokens. ``rows`` [B] are the places of the rows in the data, so that a step which fails can be
told by the documents it was about; whoever computes a loss takes it out first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from bioie_ray.training.tokens import IGNORED

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SftCollator:
    """Conversations. ``packed``: all of a micro-batch in one row, each with positions of its own and blind to the others."""

    pad_id: int
    packed: bool

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """``input_ids``, ``labels`` [B, L] (packed: [1, L]); with ``attention_mask`` [B, L], or where packed what `_flat` says."""
        numbers = torch.tensor([row["row"] for row in rows])
        if self.packed:
            return {"rows": numbers, **self._flat(rows)}
        width = max(len(row["input_ids"]) for row in rows)
        return {
            "rows": numbers,
            "input_ids": torch.tensor([_padded(row["input_ids"], width, self.pad_id) for row in rows]),
            "labels": torch.tensor([_padded(row["labels"], width, IGNORED) for row in rows]),
            "attention_mask": torch.tensor([_padded([1] * len(row["input_ids"]), width, 0) for row in rows]),
        }

    def _flat(self, rows: Sequence[Row]) -> dict[str, Any]:
        """``position_ids``, ``seq_idx`` (conversation of each token) [1, L]; ``cu_seq_lens_*`` [conversations + 1], ``max_length_*``, ``conversation_lengths``.

        Each kind of layer reads its own of them (``transformers``, ``FlashAttentionKwargs``): masks come from positions that begin anew,
        flash attention and `packed_attention` go by lengths (the latter by numbers that are no tensor), convolutions and recurrent states by the number of
        the conversation.
        """
        lengths = [n for row in rows for n in row["seq_lengths"]]
        labels = torch.tensor([label for row in rows for label in row["labels"]])
        positions = torch.cat([torch.arange(n) for n in lengths])
        labels[positions == 0] = IGNORED  # what begins a conversation is not foretold by the one before
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return {
            "input_ids": torch.tensor([id_ for row in rows for id_ in row["input_ids"]])[None],
            "labels": labels[None],
            # Without an attention mask, transformers reads from positions that begin anew which tokens may see each other.
            "position_ids": positions[None],
            "seq_idx": torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))[None],
            **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), bounds),
            **dict.fromkeys(("max_length_q", "max_length_k"), max(lengths)),
            "conversation_lengths": tuple(lengths),
        }


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pairs of answers, as TRL's ``DPOTrainer`` expects them: the chosen ones of a micro-batch, then the rejected ones."""

    pad_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask``, ``completion_mask`` [2B, L]; ``ref_chosen_logps``, ``ref_rejected_logps`` [B]."""
        texts = [row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in rows]
        prompts = [len(row["prompt_ids"]) for row in rows] * 2
        width = max(map(len, texts))
        return {
            "rows": torch.tensor([row["row"] for row in rows]),
            "input_ids": torch.tensor([_padded(text, width, self.pad_id) for text in texts]),
            "attention_mask": torch.tensor([_padded([1] * len(text), width, 0) for text in texts]),
            "completion_mask": torch.tensor(
                [_padded([0] * n + [1] * (len(text) - n), width, 0) for text, n in zip(texts, prompts, strict=True)]
            ),
            **{
                name: torch.tensor([row[name] for row in rows], dtype=torch.float32)
                for name in ("ref_chosen_logps", "ref_rejected_logps")
                if name in rows[0]
            },
        }


def _padded(values: Sequence[int], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]

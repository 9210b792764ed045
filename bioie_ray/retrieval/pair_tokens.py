"""Token ids of text pairs, put together from texts that were tokenised once.

A query meets 30 candidates and a candidate many queries; joining ids costs next to nothing, tokenising again does not.
The result is token for token what the tokenizer's own pair call with ``truncation="longest_first"`` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# Unlike in length, with punctuation and surrounding space; cut at 16 tokens they meet every case of the truncation.
_PROBES = ("left", "right-hand side (of a pair), longer than the other one", " Aspirin  causes\ttinnitus in 3% of 1,200 patients. ")
_PROBE_LENGTHS = (16, 17, 512)


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """What a tokenizer puts around two texts: special ids before, between and after them; type ids of these and of the texts.

    ``types`` is ``None`` for models without them (RoBERTa).
    """

    before: Ints
    between: Ints
    after: Ints
    types: tuple[Ints, int, Ints, int, Ints] | None
    pad_id: int
    pad_type: int
    pads_left: bool
    cuts_left: bool

    @property
    def num_special(self) -> int:
        """Tokens of a pair that belong to neither text."""
        return len(self.before) + len(self.between) + len(self.after)

    def length(self, first: Ints, second: Ints) -> Ints:
        """Tokens of pairs [m] whose texts give ``first`` and ``second`` tokens."""
        return first + second + self.num_special


def read_template(tokenizer: Any) -> PairTemplate | None:
    """Learn how a tokenizer joins pairs by watching it join some, so that no table of model families is needed.

    ``None`` where joining is more than wrapping (a chat template, a tokenizer that changes a text beside another one):
    such pairs have to go through the tokenizer itself.
    """
    left, right = tokenise(tokenizer, _PROBES[:2])
    joined = tokenizer(*_PROBES[:2], truncation=False, padding=False)
    ids = np.asarray(joined["input_ids"], dtype=np.int64)
    start = _find(ids, left, 0)
    second = _find(ids, right, start + len(left)) if start >= 0 else -1
    if second < 0 or tokenizer.pad_token_id is None:
        return None
    middle, end = start + len(left), second + len(right)
    types = None
    if "token_type_ids" in tokenizer.model_input_names and "token_type_ids" in joined:
        given = np.asarray(joined["token_type_ids"], dtype=np.int64)
        types = (given[:start], int(given[start]), given[middle:second], int(given[second]), given[end:])
    template = PairTemplate(
        ids[:start],
        ids[middle:second],
        ids[end:],
        types,
        int(tokenizer.pad_token_id),
        int(tokenizer.pad_token_type_id),
        tokenizer.padding_side == "left",
        tokenizer.truncation_side == "left",
    )
    return template if all(_agrees(template, tokenizer, length) for length in _PROBE_LENGTHS) else None


def tokenise(tokenizer: Any, texts: Sequence[str]) -> list[Ints]:
    """Ids of each text alone, without special tokens, uncut."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, return_attention_mask=False, verbose=False)
    return [np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"]]


def cut_lengths(first: Ints, second: Ints, room: int) -> tuple[Ints, Ints]:
    """Tokens kept of both texts of each pair [m] when ``room`` tokens are left for the two: fair to both.

    As ``longest_first`` of the ``tokenizers`` library (``truncate_encodings``): a text of at most half the room stays whole and
    the other gets the rest; two longer ones get half each, and an odd token goes to the longer one, the second if equal.
    """
    short, long = np.minimum(first, second), np.maximum(first, second)
    half = room // 2
    fits, both_cut = first + second <= room, 2 * short > room
    kept_short = np.where(fits | ~both_cut, short, half)
    kept_long = np.where(fits, long, np.where(both_cut, half + room % 2, room - short))
    first_is_long = first > second
    return np.where(first_is_long, kept_long, kept_short), np.where(first_is_long, kept_short, kept_long)


class TokenisedPairs:
    """Pairs [m, 2] of positions in ``tokens``, cut to ``max_length``; gives padded batches of them.

    Attributes:
        lengths: tokens of each pair [m] after the cut, special tokens included.
        truncated: which pairs [m] were cut.
    """

    def __init__(self, template: PairTemplate, tokens: Sequence[Ints], pairs: Ints, max_length: int) -> None:
        self._template, self._tokens, self._pairs = template, tokens, pairs
        sizes = np.array([len(ids) for ids in tokens], dtype=np.int64)
        first, second = sizes[pairs[:, 0]], sizes[pairs[:, 1]]
        self._first, self._second = cut_lengths(first, second, max_length - template.num_special)
        self.lengths = template.length(self._first, self._second)
        self.truncated: npt.NDArray[np.bool_] = template.length(first, second) > max_length

    def collate(self, rows: Ints) -> dict[str, Ints]:
        """``input_ids``, ``attention_mask`` and, where the model has them, ``token_type_ids``, each [len(rows), longest]."""
        template = self._template
        lengths = self.lengths[rows]
        width = int(lengths.max())
        ids = np.full((len(rows), width), template.pad_id, dtype=np.int64)
        types = None if template.types is None else np.full((len(rows), width), template.pad_type, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            place = slice(width - lengths[i], width) if template.pads_left else slice(0, lengths[i])
            a, b = (self._kept(row, side) for side in (0, 1))
            ids[i, place] = np.concatenate((template.before, a, template.between, b, template.after))
            mask[i, place] = 1
            if types is not None and template.types is not None:
                before, of_a, between, of_b, after = template.types
                types[i, place] = np.concatenate((before, np.full(len(a), of_a), between, np.full(len(b), of_b), after))
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs if types is None else {**inputs, "token_type_ids": types}

    def _kept(self, row: int, side: int) -> Ints:
        ids: Ints = self._tokens[self._pairs[row, side]]
        kept = int((self._first, self._second)[side][row])
        return ids[len(ids) - kept :] if self._template.cuts_left else ids[:kept]


def _find(ids: Ints, part: Ints, start: int) -> int:
    """First place of ``part`` in ``ids`` at or after ``start``; -1 if there is none."""
    for place in range(start, len(ids) - len(part) + 1):
        if len(part) and np.array_equal(ids[place : place + len(part)], part):
            return place
    return -1


def _agrees(template: PairTemplate, tokenizer: Any, max_length: int) -> bool:
    """Whether the template gives the tokenizer's own ids for all pairs of the probes."""
    pairs = np.array([(a, b) for a in range(len(_PROBES)) for b in range(len(_PROBES))], dtype=np.int64)
    ours = TokenisedPairs(template, tokenise(tokenizer, _PROBES), pairs, max_length).collate(np.arange(len(pairs)))
    theirs = tokenizer(
        [_PROBES[a] for a, _ in pairs],
        [_PROBES[b] for _, b in pairs],
        truncation="longest_first",
        max_length=max_length,
        padding=True,
        return_attention_mask=True,
    )
    return all(np.array_equal(values, np.asarray(theirs[name])) for name, values in ours.items())

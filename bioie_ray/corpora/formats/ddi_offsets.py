"""Offsets of DDI 2013: inclusive, in one sentence, in one or several parts; and the rules that mend the wrong ones.

Rules, tried in this order where the parts joined with a space are not the mention's text:

``ddi_text_from_spans``  the same letters but for spaces and hyphens between the parts: the offsets are right and the
    mention's text is made from them (three discontinuous mentions of the training part).
``ddi_shifted_offsets``  all parts are off by the same one to three characters.
``ddi_unique_occurrence``  the text occurs exactly once in the sentence.
``ddi_refitted_parts``  the text cut in two lies, in order, within five characters of the given offsets.

What no rule mends is an ``OffsetError``, and so are offsets that lie outside the sentence: there nothing can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Parts = tuple[tuple[int, int], ...]
_SHIFTS: Final = (1, -1, 2, -2, 3, -3)
_SLACK: Final = 5


class OffsetError(ValueError):
    """Offsets that cannot be read, lie outside the sentence, or do not fit the text by any rule."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Half-open ``spans`` into the sentence, the ``text`` they give, and the repair ``rule`` (``None``: none needed)."""

    spans: Parts
    text: str
    rule: str | None


def parse_offsets(offsets: str) -> Parts:
    """``"95-98;107-114"`` (ends included) as half-open parts ``((95, 99), (107, 115))``.

    Raises:
        OffsetError: not of that form.
    """
    if not re.fullmatch(r"\d{1,9}-\d{1,9}(;\d{1,9}-\d{1,9})*", offsets):
        raise OffsetError("offsets are not of the form START-END or START-END;START-END")
    bounds = [part.split("-") for part in offsets.split(";")]
    return tuple((int(start), int(end) + 1) for start, end in bounds)


def fit(sentence: str, parts: Parts, text: str) -> Fitted:
    """The spans of a mention whose source says ``text`` at ``parts``, mended by the rules above where they differ.

    Raises:
        OffsetError: no rule makes them agree.
    """
    if not _inside(sentence, parts):
        raise OffsetError(f"not inside its sentence, which has {len(sentence)} characters")
    joined = _join(sentence, parts)
    if joined == text:
        return Fitted(parts, joined, None)
    if _squeeze(joined) == _squeeze(text):
        return Fitted(parts, joined, "ddi_text_from_spans")
    for rule, spans in (
        ("ddi_shifted_offsets", _shifted(sentence, parts, text)),
        ("ddi_unique_occurrence", _unique(sentence, text)),
        ("ddi_refitted_parts", _refitted(sentence, parts, text)),
    ):
        if spans is not None:
            return Fitted(spans, _join(sentence, spans), rule)
    raise OffsetError(f"the sentence has {joined!r} there")


def _inside(sentence: str, parts: Sequence[tuple[int, int]]) -> bool:
    return all(0 <= start < end <= len(sentence) for start, end in parts)


def _join(sentence: str, parts: Parts) -> str:
    return " ".join(sentence[start:end] for start, end in parts)


def _squeeze(text: str) -> str:
    return re.sub(r"[\s-]+", "", text)


def _shifted(sentence: str, parts: Parts, text: str) -> Parts | None:
    for shift in _SHIFTS:
        moved = tuple((start + shift, end + shift) for start, end in parts)
        if _inside(sentence, moved) and _squeeze(_join(sentence, moved)) == _squeeze(text):
            return moved
    return None


def _unique(sentence: str, text: str) -> Parts | None:
    start = sentence.find(text) if text.strip() else -1
    if start < 0 or sentence.find(text, start + 1) >= 0:
        return None
    return ((start, start + len(text)),)


def _refitted(sentence: str, parts: Parts, text: str) -> Parts | None:
    """Two pieces of the text near the given offsets; of several cuts the one that lies nearest to them."""
    low, high = max(0, parts[0][0] - _SLACK), parts[-1][1] + _SLACK
    best: tuple[int, Parts] | None = None
    for cut in range(1, len(text)):
        left, right = text[:cut].strip(), text[cut:].lstrip(" -").rstrip()
        start = sentence.find(left, low, high) if left else -1
        second = sentence.rfind(right, start + len(left), high) if right and start >= 0 else -1
        if start < 0 or second < 0:
            continue
        spans = ((start, start + len(left)), (second, second + len(right)))
        distance = abs(start - parts[0][0]) + abs(spans[1][1] - parts[-1][1])
        if best is None or distance < best[0]:
            best = (distance, spans)
    return None if best is None else best[1]

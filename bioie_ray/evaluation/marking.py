"""Where answers stand in a text, for the sample pages."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["", "gold", "shared", "found", "missed", "wrong"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: plain, or a surface form.

    A gold answer (``gold``), one that query and example share (``shared``); where a model was asked: a gold answer that it found,
    one that it missed, or what it gave wrongly.
    """

    text: str
    kind: Kind


def mark_surfaces(text: str, gold: Collection[str], shared: Collection[str]) -> list[Piece]:
    """Cut ``text`` at every occurrence of a surface form, whole words only, case-insensitively, the longest first.

    The pieces joined give ``text`` again. A form in both collections counts as shared. Occurrences are found by the
    form, not by the annotated span: the pages show what a reader would see, not what was annotated where.
    """
    kinds: dict[str, Kind] = {form.lower(): "gold" for form in gold}
    return mark_forms(text, kinds | {form.lower(): "shared" for form in shared})


def mark_forms(text: str, kinds: Mapping[str, Kind]) -> list[Piece]:
    """Cut ``text`` at every occurrence of a lower-cased form, as ``mark_surfaces`` does, each piece of its form's kind."""
    forms = sorted((form for form in kinds if form.strip()), key=lambda form: (-len(form), form))
    if not forms:
        return [Piece(text, "")] if text else []
    pattern = re.compile("|".join(_whole_word(form) for form in forms), re.IGNORECASE)
    pieces: list[Piece] = []
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()], ""))
        pieces.append(Piece(match.group(), kinds.get(match.group().lower(), "gold")))
        end = match.end()
    if end < len(text):
        pieces.append(Piece(text[end:], ""))
    return pieces


def _whole_word(form: str) -> str:
    before = r"(?<!\w)" if form[0].isalnum() else ""
    after = r"(?!\w)" if form[-1].isalnum() else ""
    return f"{before}{re.escape(form)}{after}"

"""Where answers stand in a text, for the sample pages."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Kind = Literal["", "gold", "shared"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: plain, a gold answer, or a gold answer that query and example share."""

    text: str
    kind: Kind


def mark_surfaces(text: str, gold: Collection[str], shared: Collection[str]) -> list[Piece]:
    """Cut ``text`` at every occurrence of a surface form, whole words only, case-insensitively, the longest first.

    The pieces joined give ``text`` again. A form in both collections counts as shared. Occurrences are found by the
    form, not by the annotated span: the pages show what a reader would see, not what was annotated where.
    """
    strong = {form.lower() for form in shared if form.strip()}
    forms = sorted(strong | {form.lower() for form in gold if form.strip()}, key=lambda form: (-len(form), form))
    if not forms:
        return [Piece(text, "")] if text else []
    pattern = re.compile("|".join(_whole_word(form) for form in forms), re.IGNORECASE)
    pieces: list[Piece] = []
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()], ""))
        pieces.append(Piece(match.group(), "shared" if match.group().lower() in strong else "gold"))
        end = match.end()
    if end < len(text):
        pieces.append(Piece(text[end:], ""))
    return pieces


def _whole_word(form: str) -> str:
    before = r"(?<!\w)" if form[0].isalnum() else ""
    after = r"(?!\w)" if form[-1].isalnum() else ""
    return f"{before}{re.escape(form)}{after}"

r"""The one form of an answer: a list of strings (``ner``) or of pairs of strings (``re``), read strictly and written as JSON.

What is read is JSON or Python, whole and unmixed: what ``json.dumps`` and ``repr`` write of such a list, and no more. Nothing
is evaluated, and no text is ever changed in silence:

* ``'a' 'b'``, ``f'a'``, ``b'a'``, ``'''a'''`` and comments make an answer invalid; so does a list that is not of one kind.
* ``\\ \" \'`` and, in JSON, ``\/`` stand for the character. ``\xHH``, ``\uHHHH``, ``\UHHHHHHHH`` say which character is meant
  and are taken, except NUL and half a surrogate pair.
* ``\n \t \r`` are taken, unless they begin a name of LaTeX (``\nu``, ``\tau``, ``\rho``): then nobody knows what was meant.
* Every other escape is invalid, also where JSON or Python would take it: ``\b`` of ``TGF-\beta`` is not a backspace here.

So the only lists that ``json.dumps`` writes and that are not read have a backspace, a form feed, a NUL, half a surrogate pair, or
a line break or tab that makes such a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, Literal

from bioie_ray.corpora.tasks import Answer

Kind = Literal["ner", "re"]
Answers = tuple[Answer, ...]

# The forms that a piece of text can belong to; a list needs one that all of its pieces belong to.
_JSON: Final = 1
_PYTHON: Final = 2
_EITHER: Final = _JSON | _PYTHON

# Possessive (`*+`): a string is walked once, and a megabyte without a closing quote fails at once.
_STRING: Final = r""""(?:[^"\\\n\r\x00\ud800-\udfff]++|\\[^\n\r])*+"|'(?:[^'\\\n\r\x00\ud800-\udfff]++|\\[^\n\r])*+'"""
_SPACE: Final = r"[ \t\r\n]*+"
_NER_ITEM: Final = re.compile(f"({_STRING})")
_RE_ITEM: Final = re.compile(rf"([\[(]){_SPACE}({_STRING}){_SPACE},{_SPACE}({_STRING}){_SPACE}(,?){_SPACE}([\])])")
_GAP: Final = re.compile(_SPACE)
_OUTER_GAP: Final = re.compile(r"\s*+")
_HEX: Final = "[0-9a-fA-F]"
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<latex>(?:nu|neq|nabla|tau|theta|times|textit|textbf|textrm|rho|rightarrow)(?![a-z]))"
    rf"|u(?P<high>[dD][89abAB]{_HEX}{{2}})\\u(?P<low>[dD][c-fC-F]{_HEX}{{2}})"
    rf"|x(?P<x>{_HEX}{{2}})|u(?P<u>{_HEX}{{4}})|U(?P<long>{_HEX}{{8}})|(?P<one>.))",
    re.DOTALL,
)
_ONE: Final = {
    "\\": ("\\", _EITHER),
    '"': ('"', _EITHER),
    "n": ("\n", _EITHER),
    "t": ("\t", _EITHER),
    "r": ("\r", _EITHER),
    "/": ("/", _JSON),
    "'": ("'", _PYTHON),
}

# A bracket that begins with one of these is a list, if not one of ours; `[see below]` is prose.
_LIST_LIKE: Final = re.compile(rf"""\[{_SPACE}(?:[\["'({{\]\d-]|\Z|(?:null|true|false|None|True|False)\b)""")
# Inside such a list a quote opens a string only where an item begins: the one of `5'-AMP` does not. A string ends with its line.
_MARK: Final = re.compile(r"""\]|[\[,(:{](?:\s*+(?:"(?:[^"\\\n]++|\\[^\n])*+"?|'(?:[^'\\\n]++|\\[^\n])*+'?))?""")


class _NotOursError(Exception):
    """The text is not a list of ours."""


def parse_list(text: str, kind: Kind) -> Answers | None:
    """The list that the whole text is, white space around it aside; ``None`` where it is none.

    Order and repetitions stay. Never raises, whatever the text, and takes time in proportion to it.
    """
    start = _end(_OUTER_GAP, text, 0)
    if not text.startswith("[", start):
        return None
    try:
        answers, end = _read_list(text, kind, start)
    except _NotOursError:
        return None
    return answers if _end(_OUTER_GAP, text, end) == len(text) else None


def format_list(answers: Sequence[Answer]) -> str:
    """The form that models are asked for: a JSON list in one line, letters as they are, pairs as lists."""
    return json.dumps([answer if isinstance(answer, str) else list(answer) for answer in answers], ensure_ascii=False)


def find_list(text: str, kind: Kind, start: int = 0) -> tuple[int, int] | None:
    """Start and end of the first complete list of that kind at or after ``start``; ``None`` as long as there is none.

    Brackets inside a list's strings do not count, and neither does anything inside a list of another form (``[1, ["a"]]``, a
    ``["a", "b"]`` in an unfinished list of pairs). Quotes and apostrophes before a list mean nothing. Linear in the text.
    """
    found = _first_list(text, kind, start)
    return (found[0], found[1]) if found and found[1] is not None else None


def find_open_list(text: str, kind: Kind) -> int | None:
    """Where a list begins that is still open at the end of the text; ``None`` where a complete one comes first, or there is none."""
    found = _first_list(text, kind, 0)
    return found[0] if found and found[1] is None else None


def _first_list(text: str, kind: Kind, start: int) -> tuple[int, int | None] | None:
    """Start and end of the first list that is complete or, without an end, still open."""
    at = text.find("[", start)
    while at >= 0:
        resume: int | None = at + 1
        if _LIST_LIKE.match(text, at):
            try:
                return at, _read_list(text, kind, at)[1]
            except _NotOursError:
                resume = _past_foreign_list(text, at)
        if resume is None:
            return at, None
        at = text.find("[", resume)
    return None


def _read_list(text: str, kind: Kind, start: int) -> tuple[Answers, int]:
    """The list that begins with the bracket at ``start``, and where it ends."""
    answers: list[Answer] = []
    forms = _EITHER
    at = _end(_GAP, text, start + 1)
    while not text.startswith("]", at):
        answer, item_forms, at = _read_string(text, at) if kind == "ner" else _read_pair(text, at)
        answers.append(answer)
        forms &= item_forms
        at = _end(_GAP, text, at)
        if text.startswith(",", at):
            at = _end(_GAP, text, at + 1)
            if text.startswith("]", at):  # a comma after the last item: Python
                forms &= _PYTHON
        elif not text.startswith("]", at):
            raise _NotOursError
    if not forms:
        raise _NotOursError
    return tuple(answers), at + 1


def _read_string(text: str, at: int) -> tuple[Answer, int, int]:
    match = _NER_ITEM.match(text, at)
    if match is None:
        raise _NotOursError
    string, forms = _decode(match[1])
    return string, forms, match.end()


def _read_pair(text: str, at: int) -> tuple[Answer, int, int]:
    match = _RE_ITEM.match(text, at)
    if match is None or match[1] + match[5] not in {"[]", "()"}:
        raise _NotOursError
    (left, left_forms), (right, right_forms) = _decode(match[2]), _decode(match[3])
    own = _EITHER if match[1] == "[" and not match[4] else _PYTHON
    return (left, right), own & left_forms & right_forms, match.end()


def _decode(literal: str) -> tuple[str, int]:
    """The text of a quoted string and the forms it can belong to."""
    forms = _EITHER if literal[0] == '"' else _PYTHON
    inner = literal[1:-1]
    if "\\" not in inner:
        return inner, forms
    parts: list[str] = []
    end = 0
    for match in _ESCAPE.finditer(inner):
        character, escape_forms = _escaped(match)
        forms &= escape_forms
        parts += (inner[end : match.start()], character)
        end = match.end()
    return "".join(parts) + inner[end:], forms


def _escaped(match: re.Match[str]) -> tuple[str, int]:
    if match["one"]:
        known = _ONE.get(match["one"])
        if known is None:
            raise _NotOursError
        return known
    if match["latex"]:
        raise _NotOursError
    if match["high"]:
        return chr(0x10000 + ((int(match["high"], 16) - 0xD800) << 10) + int(match["low"], 16) - 0xDC00), _JSON
    code = int(match["x"] or match["u"] or match["long"], 16)
    if not 0 < code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise _NotOursError
    return chr(code), _EITHER if match["u"] else _PYTHON


def _past_foreign_list(text: str, start: int) -> int | None:
    """The end of a list that is not one of ours; ``None`` while it is open."""
    depth = 0
    for match in _MARK.finditer(text, start):
        if match[0] == "]":
            depth -= 1
            if depth == 0:
                return match.end()
        elif match[0].startswith("["):
            depth += 1
    return None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a gap that begins at ``at`` ends."""
    match = pattern.match(text, at)
    return match.end() if match else at

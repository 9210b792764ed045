"""What an answer is: a list as it stands, a list in a dress that a fixed rule takes off, or neither.

A rule says what may stand before and after the list; it never touches the list. That has to be the only one in the answer:
with two different ones nobody knows which was meant. And a person who reads the whole has to say that the list is the answer: what
stands around it names nothing, and takes nothing back. What no rule covers is malformed, and two models and perhaps a person look at
it, so the rules are few and literal (``lead_ins.py`` has their words). Add one to ``RULES`` and raise ``RULES_VERSION``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, Literal

from bioie_ray.dmcr.lead_ins import CLOSING, LABEL, LEAD_IN
from bioie_ray.prompting.answers import Answers, Kind, find_list, find_open_list, parse_list

Status = Literal["valid", "dressed", "malformed"]
Reason = Literal["empty", "cut_off", "no_list", "several_lists", "other_text"]

RULES_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """An undressing rule: regular expressions for all that stands before and after the list, white space at the ends aside."""

    name: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer is. ``rule`` is the one that undressed it, ``reason`` says why it is malformed.

    ``raw`` is the list where the answer parses as it stands, ``cleaned`` also where it parses after a rule.
    """

    status: Status
    rule: str | None
    reason: Reason | None
    raw: Answers | None
    cleaned: Answers | None


# A model that is stopped at the bracket closes neither fence nor brace.
_FENCE: Final = r"(?:```|~~~)[ \t]*+(?i:json|python|py|text|txt|list|plaintext)?+\s*+"
_FENCE_END: Final = rf"\s*+(?:```|~~~)?+(?:{CLOSING})?+"
_WRAPPER: Final = r"""\{\s*+["'](?i:entities|relations|pairs|answers?|output|results?|list|items)["']\s*+:\s*+"""
_WRAPPER_END: Final = r"\s*+\}?+"
_END: Final = rf"\s*+\.?+(?:{CLOSING})?+"

RULES: Final = (
    Rule("code_fence", _FENCE, _FENCE_END),
    Rule("inline_code", "`", "`?+"),
    Rule("full_stop", "", r"\s*+[.;]"),
    Rule("end_marker", "", r"\s*+(?:</s>|<eos>|<end_of_turn>|<\|[a-z_]++\|>)++"),
    Rule("closing", "", rf"\s*+\.?+{CLOSING}"),
    Rule("wrapper", _WRAPPER, _WRAPPER_END),
    Rule("fenced_wrapper", _FENCE + _WRAPPER, _WRAPPER_END + _FENCE_END),
    Rule("label", LABEL, _END),
    Rule("lead_in", LEAD_IN, _END),
    Rule("lead_in_and_code_fence", LEAD_IN + _FENCE, _FENCE_END),
    Rule("lead_in_and_wrapper", rf"{LEAD_IN}(?:{_FENCE})?+{_WRAPPER}", _WRAPPER_END + _FENCE_END),
)
_COMPILED: Final = tuple((rule.name, re.compile(rule.before), re.compile(rule.after)) for rule in RULES)

# Typographic quotes as delimiters: only where an item has no quote or backslash in it that could mean something else.
_CURLY: Final = re.compile(r"""([\[(,]\s*+)(?:“([^“”"\\\n]*+)”|‘([^“”‘’"\\\n]*+)’)(?=\s*[,\])])""")
_CLOSINGS: Final[dict[Kind, tuple[str, ...]]] = {
    "ner": ("]", '"]', "']"),
    "re": (
        "]",
        "]]",
        ")]",
        '"]]',
        "')]",
        "']]",
        '", ""]]',
        "', '')]",
        "', '']]",
        ', ""]]',
        ", '')]",
        '""]]',
        "'')]",
        '"", ""]]',
        "'', '')]",
    ),
}


def read_answer(text: str, kind: Kind) -> Reading:
    """What the answer is, by ``parse_list`` and the rules; never raises."""
    answers = parse_list(text, kind)
    if answers is not None:
        return Reading("valid", None, None, answers, answers)
    if not text.strip():
        return _malformed("empty")
    reading = _undress(text, kind)
    if reading.reason in {"no_list", "cut_off"}:
        reading = _undress_curly(text, kind) or reading
    return reading


def _undress(text: str, kind: Kind) -> Reading:
    span = find_list(text, kind)
    if span is None:
        return _malformed("cut_off" if _is_cut_off(text, kind) else "no_list")
    start, end = span
    answers = parse_list(text[start:end], kind)
    if any(other != answers for other in _lists(text, kind, end)):
        return _malformed("several_lists")
    before, after = text[:start].lstrip().rstrip(" \t"), text[end:].rstrip()
    for name, before_pattern, after_pattern in _COMPILED:
        if before_pattern.fullmatch(before) and after_pattern.fullmatch(after):
            return Reading("dressed", name, None, None, answers)
    return _malformed("other_text")


def _undress_curly(text: str, kind: Kind) -> Reading | None:
    """A list whose strings stand between typographic quotes; only these delimiters are replaced, one character by one."""
    if '"' in text:  # so that every straight quote is one of ours
        return None
    straight = _CURLY.sub(lambda match: f'{match[1]}"{match[2] if match[3] is None else match[3]}"', text)
    span = find_list(straight, kind)
    if span is None:
        return None
    try:
        json.loads(straight[span[0] : span[1]].replace("(", "[").replace(")", "]"))
    except ValueError:  # straight single quotes beside them: an item may have held the typographic ones
        return None
    inner = parse_list(straight, kind)
    if inner is not None:
        return Reading("dressed", "curly_quotes", None, None, inner)
    reading = _undress(straight, kind)
    return Reading(reading.status, reading.rule and f"curly_quotes_and_{reading.rule}", reading.reason, None, reading.cleaned)


def _lists(text: str, kind: Kind, start: int) -> list[Answers | None]:
    found = []
    while span := find_list(text, kind, start):
        found.append(parse_list(text[span[0] : span[1]], kind))
        start = span[1]
    return found


def _is_cut_off(text: str, kind: Kind) -> bool:
    """Whether the answer ends in the middle of a list: some ending would complete it."""
    start = find_open_list(text, kind)
    if start is None:
        return False
    tail = text[start:].rstrip()
    ends = (tail, tail.removesuffix("\\"), tail.removesuffix(","))
    return any(parse_list(end + closing, kind) is not None for end in ends for closing in _CLOSINGS[kind])


def _malformed(reason: Reason) -> Reading:
    return Reading("malformed", None, reason, None, None)

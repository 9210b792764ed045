"""A conversation to be tuned on, and what makes a record none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Turn = Mapping[str, str]
_ROLES: Final = ("system", "user", "assistant")
_MAX_NAME_CHARS: Final = 200


class BadRecordError(ValueError):
    """A record that is no conversation; the message is the reason, as it stands in quarantine."""


class NoAnswerError(BadRecordError):
    """A record whose last answer is empty.

    In the ADELIE samples 24 of 180 are: they mean that there is nothing to extract, and would teach a model to say nothing at all. That
    is no defect of the file, so such records are left out and counted, not quarantined.
    """


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of user and assistant, a system turn before them or not, an answer at the end.

    ``source`` is the kind and the data set (``taiyi:diakg``). ``id`` is unique within the source where that has ids. ``language`` is
    what the record says of itself, ``None`` where it says nothing.
    """

    id: str
    source: str
    language: str | None
    messages: tuple[Turn, ...]

    @property
    def text(self) -> str:
        """All turns, one after the other."""
        return "\n".join(turn["content"] for turn in self.messages)

    @property
    def answers(self) -> str:
        """What the assistant says."""
        return "\n".join(turn["content"] for turn in self.messages if turn["role"] == "assistant")

    @property
    def digest(self) -> str:
        """By which two conversations count as the same: roles and texts, whatever the white space."""
        same = [[turn["role"], " ".join(turn["content"].split())] for turn in self.messages]
        return hashlib.sha256(json.dumps(same, ensure_ascii=False).encode()).hexdigest()[:32]


def checked_turns(turns: Any, max_chars: int) -> tuple[Turn, ...]:
    """Turns ``{role, content}`` of a record, with white space around a text taken away: it teaches nothing but to end in a line break.

    Raises:
        NoAnswerError: only the last answer is empty.
        BadRecordError: roles that do not alternate, an empty turn, no answer at the end, something that is no text, or too much of it.
    """
    if not isinstance(turns, list):
        raise BadRecordError(f"the conversation is no list but {_kind(turns)}")
    if not turns:
        raise BadRecordError("the conversation has no turns")
    checked = tuple(_checked_turn(number, turn, is_last=number == len(turns)) for number, turn in enumerate(turns, start=1))
    expected = "user"
    for number, turn in enumerate(checked, start=1):
        role = turn["role"]
        if role == "system" and number == 1:
            continue
        if role != expected:
            raise BadRecordError(f"turn {number} is of the {role}, but one of the {expected} belongs there")
        expected = "assistant" if role == "user" else "user"
    if checked[-1]["role"] != "assistant":
        raise BadRecordError(f"the last turn is of the {checked[-1]['role']}, not of the assistant")
    if not checked[-1]["content"]:
        raise NoAnswerError("the last answer is empty")
    num_chars = sum(len(turn["content"]) for turn in checked)
    if num_chars > max_chars:
        raise BadRecordError(f"{num_chars:,} characters, and instructions.max_chars is {max_chars:,}")
    return checked


def _checked_turn(number: int, turn: Any, *, is_last: bool) -> Turn:
    if not isinstance(turn, Mapping):
        raise BadRecordError(f"turn {number} is no object but {_kind(turn)}")
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            raise BadRecordError(f"turn {number} has no text as its `{key}` but {_kind(turn.get(key))}")
    if turn["role"] not in _ROLES:
        raise BadRecordError(f"turn {number} has the role {turn['role'][:_MAX_NAME_CHARS]!r}; known: {', '.join(_ROLES)}")
    content = turn["content"].strip()
    if not content and not (is_last and turn["role"] == "assistant"):
        raise BadRecordError(f"turn {number} is empty")
    check_encodable(content, f"turn {number}")
    return {"role": turn["role"], "content": content}


def check_encodable(text: str, where: str) -> None:
    r"""JSON may escape half a character (``\ud800``), which no file and no tokenizer takes.

    Raises:
        BadRecordError: the text holds one.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecordError(f"{where} holds half a character (a lone surrogate)") from None


def name_in(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of some keys whose value is a name or a number, as text; ``None`` where there is none."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            text = str(value).strip()[:_MAX_NAME_CHARS]
            check_encodable(text, f"`{key}`")
            return text
    return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)

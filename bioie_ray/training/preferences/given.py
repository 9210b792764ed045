"""Given pairs in the published form: ``prompt``, ``chosen``, ``rejected``, all strings (or a prompt of turns)."""

from __future__ import annotations

import json
from typing import Any, get_args

from bioie_ray.dmcr.reading import read_answer
from bioie_ray.evaluation.gold_view import distinct
from bioie_ray.prompting.answers import Kind
from bioie_ray.training.instructions.conversation import BadRecordError, check_encodable

_KEYS = ("prompt", "chosen", "rejected")


def read_pair(record: Any, max_chars: int) -> dict[str, str]:
    """``messages`` (JSON), ``chosen`` and ``rejected`` of a record. A rejected answer may be anything, empty too; further keys are left alone.

    Raises:
        BadRecordError: a key is missing, no string, empty or too long, or both answers are the same.
    """
    if not isinstance(record, dict):
        raise BadRecordError(f"a pair is an object with {', '.join(_KEYS)}; this is a {type(record).__name__}")
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise BadRecordError(f"it lacks {', '.join(missing)}")
    for key in ("chosen", "rejected"):
        if not isinstance(record[key], str):
            raise BadRecordError(f"{key} is no string")
    messages = _messages(record["prompt"])
    for name, text in (
        *((f"prompt turn {n}", turn["content"]) for n, turn in enumerate(messages, 1)),
        *((key, record[key]) for key in _KEYS[1:]),
    ):
        if len(text) > max_chars:
            raise BadRecordError(f"{name} has {len(text)} characters, and {max_chars} are allowed (instructions.max_chars)")
        check_encodable(text, name)
    if not record["chosen"].strip():
        raise BadRecordError("chosen is empty")
    if _same(record["chosen"], record["rejected"]):
        raise BadRecordError("chosen and rejected are the same")
    return {"messages": json.dumps(messages, ensure_ascii=False), "chosen": record["chosen"], "rejected": record["rejected"]}


def _same(chosen: str, rejected: str) -> bool:
    """The same text but for space around it, or lists of the same items."""
    if chosen.strip() == rejected.strip():
        return True
    for kind in get_args(Kind):
        one, other = (read_answer(text, kind).cleaned for text in (chosen, rejected))
        if one is not None and other is not None and distinct(one) == distinct(other):
            return True
    return False


def _messages(prompt: Any) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadRecordError("prompt is empty")
        return [{"role": "user", "content": prompt}]
    turns = prompt if isinstance(prompt, list) else []
    fine = all(
        isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn.get("role") in ("system", "user", "assistant")
        for turn in turns
    )
    if not turns or not fine or turns[-1]["role"] != "user":
        raise BadRecordError("prompt is neither a string nor turns (role, content) that end with the user's")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]

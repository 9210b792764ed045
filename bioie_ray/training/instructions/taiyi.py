"""The Taiyi form (Luo et al. 2024, arXiv 2311.11608): ``conversation: [{human, assistant}]``, with dataset, category and language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bioie_ray.training.instructions.conversation import BadRecordError, Conversation, checked_turns, name_in

_PAIR = (("human", "user"), ("assistant", "assistant"))


def read_taiyi(record: Any, where: str, max_chars: int) -> Conversation:
    """A conversation; ``where`` is its id where the record has none.

    Raises:
        BadRecordError: the record has another form.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError("the record is no object")
    pairs = record.get("conversation")
    if not isinstance(pairs, list):
        raise BadRecordError("the record has no list `conversation`")
    turns: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, Mapping):
            raise BadRecordError(f"entry {number} of the conversation is no object with `human` and `assistant`")
        for key, role in _PAIR:
            if not isinstance(pair.get(key), str):
                raise BadRecordError(f"entry {number} of the conversation has no text as its `{key}`")
            turns.append({"role": role, "content": pair[key]})
    messages = checked_turns(turns, max_chars)
    source = f"taiyi:{name_in(record, ('dataset',)) or 'unnamed'}"
    id_ = name_in(record, ("conversation_id", "id")) or where
    return Conversation(f"{source}/{id_}", source, name_in(record, ("language",)), messages)

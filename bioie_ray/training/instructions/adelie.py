"""The ADELIE form (Qi et al. 2024, arXiv 2405.05008): ``messages: [{role, content}]``, several turns, perhaps a system turn first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bioie_ray.training.instructions.conversation import BadRecordError, Conversation, checked_turns, name_in


def read_adelie(record: Any, where: str, max_chars: int) -> Conversation:
    """A conversation; ``where`` is its id where the record has none.

    Raises:
        BadRecordError: the record has another form.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError("the record is no object")
    if not isinstance(record.get("messages"), list):
        raise BadRecordError("the record has no list `messages`")
    messages = checked_turns(record["messages"], max_chars)
    source = f"adelie:{name_in(record, ('datasets', 'dataset')) or 'unnamed'}"
    id_ = name_in(record, ("id",)) or where
    return Conversation(f"{source}/{id_}", source, name_in(record, ("language",)), messages)

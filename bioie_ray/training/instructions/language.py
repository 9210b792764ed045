"""The language of a conversation: what its record says, else what its text looks like."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from bioie_ray.training.instructions.conversation import Conversation

# More text makes no language clearer, and takes longer.
_LOOKED_AT_CHARS: Final = 1_000


def language_of(conversation: Conversation) -> str:
    """The record's own (``en``, or ``en-zh`` for a translation), else the one that py3langid finds."""
    if conversation.language is not None:
        return conversation.language
    import py3langid

    return str(py3langid.classify(conversation.text[:_LOOKED_AT_CHARS])[0])


def is_wanted(language: str, languages: Collection[str]) -> bool:
    """Whether a model of these languages (none: all) can learn from it: a translation needs both of its own.

    A region (``zh-CN``, ``en_US``: capitals after small letters) does not matter.
    """
    first, *others = [part for part in re.split(r"[^A-Za-z]+", language) if part] or [""]
    own = {first.lower(), *(part.lower() for part in others if first.isupper() or not part.isupper())}
    return not languages or own <= {wanted.lower() for wanted in languages}

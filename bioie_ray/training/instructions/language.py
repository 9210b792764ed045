"""The language of a conversation: what its record says, else what its text looks like."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from bioie_ray.training.instructions.conversation import Conversation

# More text makes no language clearer, and takes longer.
_LOOKED_AT_CHARS: Final = 1_000
# Languages that are no country's code, for pairs in capitals: EN-ZH is a translation, ZH-CN is Chinese.
_PAIRED: Final = frozenset({"EN", "ZH", "JA", "KO", "HI", "UK", "CS", "DA", "EL"})


def language_of(conversation: Conversation) -> str:
    """The record's own (``en``, or ``en-zh`` for a translation), else the one that py3langid finds."""
    if conversation.language is not None:
        return conversation.language
    import py3langid

    return str(py3langid.classify(conversation.text[:_LOOKED_AT_CHARS])[0])


def is_wanted(language: str, languages: Collection[str]) -> bool:
    """Whether a model of these languages (none: all) can learn from it: a translation needs both of its own.

    A region (``zh-CN``, ``en_US``) does not matter: capitals that are no language's code, or that follow small letters.
    """
    parts = [part for part in re.split(r"[^A-Za-z]+", language) if part]
    own = {
        part.lower() for number, part in enumerate(parts) if number == 0 or not part.isupper() or (parts[0].isupper() and part in _PAIRED)
    }
    return not languages or own <= {wanted.lower() for wanted in languages}

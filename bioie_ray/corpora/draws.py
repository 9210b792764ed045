"""Draws that depend on ids and the seed alone: another order of documents or records, or further ones beside them, change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def in_drawn_order(ids: Sequence[str], purpose: str, seed: int) -> list[str]:
    """The ids as a shuffle of that purpose and seed has them."""
    return sorted(ids, key=lambda id_: (hashlib.sha256(f"{purpose}:{seed}:{id_}".encode()).digest(), id_))

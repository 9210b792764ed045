"""Draws that depend on ids and the seed alone: another order of records, or further ones in another source, change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def in_drawn_order(ids: Sequence[str], purpose: str, seed: int) -> list[str]:
    """The ids as a shuffle of that purpose and seed has them."""
    return sorted(ids, key=lambda id_: (hashlib.sha256(f"{purpose}:{seed}:{id_}".encode()).digest(), id_))


def drawn(ids: Sequence[str], max_records: int | None, seed: int) -> frozenset[str]:
    """So many of the ids, or all."""
    return frozenset(ids if max_records is None else in_drawn_order(ids, "records", seed)[:max_records])


def num_copies(ids: Sequence[str], weight: float, seed: int) -> dict[str, int]:
    """How often each comes: 2.5 is twice, and once more for half of them."""
    whole = int(weight)
    more = frozenset(in_drawn_order(ids, "weight", seed)[: round((weight - whole) * len(ids))])
    return {id_: whole + (id_ in more) for id_ in ids}

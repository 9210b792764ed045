"""How many of a source's records are taken, and how often each."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.corpora.draws import in_drawn_order


def drawn(ids: Sequence[str], max_records: int | None, seed: int) -> frozenset[str]:
    """So many of the ids, or all."""
    return frozenset(ids if max_records is None else in_drawn_order(ids, "records", seed)[:max_records])


def num_copies(ids: Sequence[str], weight: float, seed: int) -> dict[str, int]:
    """How often each comes: 2.5 is twice, and once more for half of them."""
    whole = int(weight)
    more = frozenset(in_drawn_order(ids, "weight", seed)[: round((weight - whole) * len(ids))])
    return {id_: whole + (id_ in more) for id_ in ids}

"""Annotated relations out of BigBio-KB rows, where one relation was expanded to every pair of its arguments' mentions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bioie_ray.corpora.document import Argument, ArgumentKind, Mention, Relation

Pair = tuple[str, str]
Groups = Mapping[str, tuple[str, ...]]


def read_relations(corpus: str, rows: Sequence[Mapping[str, Any]], mentions: Sequence[Mention]) -> tuple[Relation, ...]:
    """The relations as the release counts them: between concepts (BC5CDR), clusters (BioRelEx) or mentions (others)."""
    if corpus == "bc5cdr":
        return _collapsed(rows, _by_key((m.id, m.concept_ids) for m in mentions), "concept", "CID")
    if corpus == "biorelex":
        clusters = _by_key((m.id, (m.entity_id,) if m.entity_id is not None else ()) for m in mentions)
        return _collapsed(rows, clusters, "entity", "")
    return tuple(
        Relation(
            id=row["id"],
            type="DDI" if corpus == "ddi_corpus" else row["type"],
            label=(row["type"] or "").lower() if corpus == "ddi_corpus" else "",
            arguments=(Argument("mention", row["arg1_id"]), Argument("mention", row["arg2_id"])),
        )
        for row in rows
    )


def collapse(pairs: Sequence[Pair], groups: Groups) -> list[Pair]:
    """Group pairs whose products of members, one after another, are exactly ``pairs``.

    Args:
        pairs: mention pairs in the order of the rows.
        groups: concept or cluster -> its mentions in document order.

    A run is read as the longest product that fits there, and shorter ones are tried where that leads nowhere. Where no
    series of products gives the rows (they were sorted or made another way), every group pair counts whose product
    is wholly among them.
    """
    of_mention: dict[str, list[str]] = {}
    for group, members in groups.items():
        for member in members:
            of_mention.setdefault(member, []).append(group)
    series = _series(pairs, groups, of_mention)
    return series if series is not None else _covered(pairs, groups, of_mention)


def _series(pairs: Sequence[Pair], groups: Groups, of_mention: Mapping[str, list[str]]) -> list[Pair] | None:
    """Depth first, without recursion: each level holds the readings of the run at its position not tried yet."""
    taken: list[Pair] = []
    positions = [0]
    untried = [_readings(pairs, 0, groups, of_mention, taken)] if pairs else []
    dead: set[int] = set()
    while positions[-1] < len(pairs):
        if untried[-1]:
            reading, length = untried[-1].pop()
            end = positions[-1] + length
            if end in dead:
                continue
            taken.append(reading)
            positions.append(end)
            untried.append(_readings(pairs, end, groups, of_mention, taken) if end < len(pairs) else [])
        else:
            untried.pop()
            dead.add(positions.pop())
            if not positions:
                return None
            taken.pop()
    return taken


def _readings(
    pairs: Sequence[Pair], position: int, groups: Groups, of_mention: Mapping[str, list[str]], taken: Iterable[Pair]
) -> list[tuple[Pair, int]]:
    """Group pairs whose product begins at ``position``, the best last: longest, then not taken yet, then first named."""
    first, second = pairs[position]
    seen = set(taken)
    fitting = []
    for left in of_mention.get(first, ()):
        for right in of_mention.get(second, ()):
            product = [(a, b) for a in groups[left] for b in groups[right]]
            if list(pairs[position : position + len(product)]) == product:
                fitting.append(((left, right), len(product)))
    fitting.reverse()
    return sorted(fitting, key=lambda reading: (reading[1], reading[0] not in seen))


def _covered(pairs: Sequence[Pair], groups: Groups, of_mention: Mapping[str, list[str]]) -> list[Pair]:
    present = set(pairs)
    candidates = dict.fromkeys((left, right) for a, b in pairs for left in of_mention.get(a, ()) for right in of_mention.get(b, ()))
    return [(left, right) for left, right in candidates if all((a, b) in present for a in groups[left] for b in groups[right])]


def _collapsed(rows: Sequence[Mapping[str, Any]], groups: Groups, kind: ArgumentKind, type: str) -> tuple[Relation, ...]:
    pairs = collapse([(row["arg1_id"], row["arg2_id"]) for row in rows], groups)
    types = {row["type"] for row in rows}
    return tuple(
        Relation(
            id=f"r{number}",
            type=type or (min(types) if len(types) == 1 else ""),
            label="",
            arguments=(Argument(kind, left), Argument(kind, right)),
        )
        for number, (left, right) in enumerate(pairs)
    )


def _by_key(keyed: Iterable[tuple[str, Iterable[str]]]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for member, keys in keyed:
        for key in keys:
            groups.setdefault(key, []).append(member)
    return {key: tuple(members) for key, members in groups.items()}

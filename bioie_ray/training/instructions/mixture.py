"""Which records are tuned on, and in what order: no duplicates, each source drawn and weighted, all of them shuffled by the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from bioie_ray.config.training import SourceSettings
from bioie_ray.corpora.draws import in_drawn_order
from bioie_ray.training.instructions.draw import drawn, num_copies
from bioie_ray.training.instructions.duplicates import Seen

# Why a record that was kept is no row of the mixture.
NOT_MIXED: Final = ("exact_duplicates", "near_duplicates", "not_drawn", "left_by_weight")
_COPY: Final = "~"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A record by what decides over it; ``entry`` is the number of its source, ``place`` where its text is kept."""

    entry: int
    place: tuple[int, int]
    id: str
    digest: str
    group: str
    signature: Sequence[int]
    answer_words: Sequence[int]


@dataclass(frozen=True, slots=True)
class Taken:
    """A row of the mixture: its own id, and where the record lies."""

    id: str
    place: tuple[int, int]


@dataclass(slots=True)
class EntryCounts:
    """What became of the records of one source. ``left_by_weight`` came less than once, ``copies`` are rows beyond the first."""

    records: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    not_drawn: int = 0
    left_by_weight: int = 0
    copies: int = 0
    rows: int = 0

    def as_dict(self) -> dict[str, int]:
        """For records and reports."""
        return asdict(self)


@dataclass(slots=True)
class Mixture:
    """The rows in their order, and counts by source."""

    rows: list[Taken] = field(default_factory=list)
    entries: list[EntryCounts] = field(default_factory=list)


def mix(candidates: Iterable[Candidate], sources: Sequence[SourceSettings], near_duplicates: float | None, seed: int) -> Mixture:
    """The mixture of all sources; the order of the candidates decides only which of several duplicates stays."""
    entries = [EntryCounts() for _ in sources]
    kept: list[dict[str, tuple[int, int]]] = [{} for _ in sources]
    seen, times, used = Seen(near_duplicates), Counter[str](), set[str]()
    for candidate in candidates:
        counts = entries[candidate.entry]
        counts.records += 1
        duplicate = seen.judge(candidate.digest, candidate.group, candidate.signature, candidate.answer_words)
        if duplicate == "exact":
            counts.exact_duplicates += 1
        elif duplicate == "near":
            counts.near_duplicates += 1
        else:
            kept[candidate.entry][_unused(candidate.id, used, times)] = candidate.place
    places: dict[str, tuple[int, int]] = {}
    for source, counts, found in zip(sources, entries, kept, strict=True):
        ids = list(found)
        chosen = drawn(ids, source.max_records, seed)
        copies = num_copies([id_ for id_ in ids if id_ in chosen], source.weight, seed)
        for id_, number in copies.items():
            for copy in range(1, number + 1):
                places[id_ if copy == 1 else _unused(id_, used, times, _COPY)] = found[id_]
        counts.not_drawn = len(ids) - len(chosen)
        counts.left_by_weight = sum(number == 0 for number in copies.values())
        counts.copies = sum(max(0, number - 1) for number in copies.values())
        counts.rows = sum(copies.values())
    return Mixture([Taken(id_, places[id_]) for id_ in in_drawn_order(list(places), "order", seed)], entries)


def _unused(id_: str, used: set[str], times: Counter[str], mark: str = "#") -> str:
    """The id, or with the next number that makes it one of its own: files of one data set may number their records anew, and may have `x#2` too."""
    found = id_
    while found in used:
        times[id_ + mark] += 1
        found = f"{id_}{mark}{times[id_ + mark] + 1}"
    used.add(found)
    return found

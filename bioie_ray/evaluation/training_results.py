"""What the page shows of training: how each run of a stage went, and what the preference pairs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageSummary:
    """An output of a training stage.

    ``settings`` are the parameters as the page names them, ``numbers`` what came of them. ``trace`` holds (step, value) of every metric
    that was logged.
    """

    source: str
    stage: str
    seed: int
    settings: Mapping[str, str]
    numbers: Mapping[str, str]
    trace: Mapping[str, tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class MixCount:
    """How many pairs have a wrong answer of a kind, and by whom it is: ``model``, ``corruption`` or, without a kind, ``given``."""

    made_by: str
    kind: str
    num_pairs: int


@dataclass(frozen=True, slots=True)
class PairView:
    """A pair as the samples show it; ``f1`` of the rejected answer is ``None`` where pairs were given."""

    id: str
    made_by: str
    kind: str
    f1: float | None
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class PreferencesSummary:
    """An output of ``make_preferences``. ``num_read`` are documents asked about, or records of given files."""

    source: str
    num_read: int
    num_pairs: int
    num_without: int
    num_quarantined: int
    mix: tuple[MixCount, ...]
    samples: tuple[PairView, ...]

"""What the section on training draws: each stage's runs side by side, and the mix of the pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bioie_ray.config.training import STAGES
from bioie_ray.evaluation.plots_scores import STYLES, Segment, bar
from bioie_ray.evaluation.plots_training import Traces, traces
from bioie_ray.evaluation.training_results import MixCount, PreferencesSummary, StageSummary

PLOT_SIZE: Final = (340.0, 110.0)
MIX_WIDTH: Final = 420.0
# What a stage's plots show, where it was logged: the metric's name in a trace, the title, and its largest value if it has one.
_PLOTS: Final[Mapping[str, tuple[str, float | None]]] = {
    "loss": ("Loss", None),
    "rewards/margins": ("Reward of the chosen answer less that of the rejected one", None),
    "rewards/accuracies": ("Share of pairs whose chosen answer has the higher reward", 1.0),
    "logratios/chosen": ("Log-ratio of the chosen answer to the reference", None),
    "dev_f1": ("F1 on dev documents", 1.0),
}
_MAKERS: Final = {"model": "the tuned model's own", "corruption": "corrupted gold", "given": "given"}


@dataclass(frozen=True, slots=True)
class StageView:
    """All runs of one stage: each with its line's style; ``rows`` are (what, its value in each run)."""

    stage: str
    runs: tuple[tuple[StageSummary, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    plots: tuple[Traces, ...]


@dataclass(frozen=True, slots=True)
class MixRow:
    """A line of the mix: ``by`` is the pairs of each maker, in the order of the columns."""

    kind: str
    by: tuple[int, ...]
    num_pairs: int
    share: float


@dataclass(frozen=True, slots=True)
class PreferencesView:
    """The pairs of one output."""

    summary: PreferencesSummary
    makers: tuple[str, ...]
    rows: tuple[MixRow, ...]
    bar: tuple[Segment, ...]


def stage_views(summaries: Sequence[StageSummary]) -> list[StageView]:
    """One view a stage, in the order of training."""
    known = [stage for stage in STAGES if any(summary.stage == stage for summary in summaries)]
    return [_stage_view(stage, [summary for summary in summaries if summary.stage == stage]) for stage in known]


def _stage_view(stage: str, summaries: Sequence[StageSummary]) -> StageView:
    runs = tuple((summary, f"line-{place % STYLES + 1}") for place, summary in enumerate(summaries))
    told = [{**summary.settings, **summary.numbers} for summary in summaries]
    names = dict.fromkeys(name for one in told for name in one)
    plots = [
        traces(title, [(s.source, style, s.trace.get(metric, ())) for s, style in runs], *PLOT_SIZE, cap=cap)
        for metric, (title, cap) in _PLOTS.items()
        if any(summary.trace.get(metric) for summary in summaries)
    ]
    return StageView(stage, runs, tuple((name, tuple(one.get(name, "") for one in told)) for name in names), tuple(plots))


def preferences_view(summary: PreferencesSummary) -> PreferencesView:
    """Kinds of error by who made them, most pairs first."""
    makers = [maker for maker in _MAKERS if any(count.made_by == maker for count in summary.mix)]
    rows = [_mix_row(kind, makers, summary) for kind in dict.fromkeys(count.kind for count in summary.mix)]
    rows.sort(key=lambda row: -row.num_pairs)
    segments = bar([(row.kind, row.num_pairs) for row in rows], MIX_WIDTH) if len(rows) > 1 else ()
    return PreferencesView(summary, tuple(_MAKERS[maker] for maker in makers), tuple(rows), segments)


def _mix_row(kind: str, makers: Sequence[str], summary: PreferencesSummary) -> MixRow:
    mine: list[MixCount] = [count for count in summary.mix if count.kind == kind]
    by = tuple(sum(count.num_pairs for count in mine if count.made_by == maker) for maker in makers)
    return MixRow(kind or "not judged", by, sum(by), sum(by) / max(summary.num_pairs, 1))

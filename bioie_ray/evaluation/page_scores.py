"""What the page shows of scores, worked out from ``ReportData``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from bioie_ray.evaluation import plots
from bioie_ray.evaluation.errors import ERROR_MEANINGS, MISSED_KINDS, WRONG_KINDS
from bioie_ray.evaluation.marking import Piece, mark_forms
from bioie_ray.evaluation.plots_scores import LineInput, Lines, Segment, bar, line_styles, lines
from bioie_ray.evaluation.score_results import ZERO_SHOT, AnswerView, MissingRun, OtherScore, ReviewCounts, ScoreResult, VariantScore
from bioie_ray.evaluation.table import SCORINGS, VARIANTS, Scoring

if TYPE_CHECKING:  # report.py imports this module; only the types come back
    from bioie_ray.evaluation.report import ReportData

_Place = tuple[str, str, str, int]
LINES_SIZE: Final = (330.0, 220.0)
FOREST_WIDTH: Final = 150.0
OVERVIEW_WIDTH: Final = 440.0
BAR_WIDTH: Final = 280.0
FATES: Final = {
    "as-it-stands": "a list as it stands",
    "undressed": "undressed by fixed rules",
    "converted": "converted: two evaluators agree on a list, or a person decided",
    "agreed-empty": "two evaluators agree that it names nothing",
    "empty": "says nothing: nobody was asked to convert it; counts as empty",
    "no-list": "no list: undecided, not reviewed, or the query was not asked; counts as empty",
}


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A run in its task's table: marks of raw, cleaned and corrected F1 on one axis, and the bars of what became of its answers."""

    result: ScoreResult
    best: bool
    raw: plots.Mark
    cleaned: plots.Mark
    corrected: plots.Mark
    fates: tuple[Segment, ...]
    gold: tuple[Segment, ...]
    given: tuple[Segment, ...]

    @property
    def scorings(self) -> dict[Scoring, VariantScore | OtherScore]:
        """Corrected scores by scoring, strict first."""
        score = self.result.corrected
        return {"strict": score, **{name: score.scorings[name] for name in SCORINGS if name in score.scorings}}


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """F1 against the number of examples, for one model."""

    model: str
    plot: Lines


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Everything shown of one task's scores; rows have the best corrected F1 first."""

    key: str
    rows: tuple[ScoreRow, ...]
    axis: plots.Axis
    charts: tuple[ScoreChart, ...]
    models: tuple[str, ...]
    scorings: tuple[Scoring, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether runs are over different numbers of documents or repeats."""
        return len({(row.result.num_documents, row.result.num_repeats) for row in self.rows}) > 1


@dataclass(frozen=True, slots=True)
class GridRow:
    """One task and model: whether each column's run is ``scored``, ``missing``, or nobody asked for it."""

    task: str
    model: str
    states: tuple[Literal["scored", "missing", ""], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """What is scored and what is not; ``methods`` are column groups with their numbers of examples.

    ``missing`` are the runs of ``recipe``, or without one what is lacking of the grid that the scores span.
    """

    methods: tuple[tuple[str, tuple[int, ...]], ...]
    rows: tuple[GridRow, ...]
    missing: tuple[MissingRun, ...]
    recipe: str = ""

    @property
    def num_runs(self) -> int:
        """Cells of the grid."""
        return sum(len(row.states) for row in self.rows)


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """A sample answer with its text cut into pieces."""

    view: AnswerView
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ScoreOverview:
    """One task and model on the common axis: without examples, with the best random ones, with the best chosen ones."""

    task: str
    model: str
    zero: plots.Mark | None
    random: plots.Mark | None
    best: plots.Mark | None
    result: ScoreResult | None


@dataclass(frozen=True, slots=True)
class ScoreView:
    """All that the page shows of scores; empty without any."""

    tasks: tuple[ScoreTask, ...]
    overview: tuple[ScoreOverview, ...]
    axis: plots.Axis
    grid: Grid | None
    answers: tuple[tuple[str, tuple[AnswerSample, ...]], ...]
    wrong: dict[str, str]
    missed: dict[str, str]
    fates: dict[str, str]
    bar_width: float = BAR_WIDTH
    forest_width: float = FOREST_WIDTH


def score_view(data: ReportData) -> ScoreView:
    """Tables, charts, bars, the grid and the samples of the report's scores."""
    ranked = sorted(data.scores, key=lambda r: (-r.corrected.f1.mean, r.name))
    styles = line_styles(list(dict.fromkeys((r.name, r.role) for r in ranked if r.method != ZERO_SHOT)))
    tasks = tuple(_task(data.scores, key, styles) for key in dict.fromkeys(r.task for r in data.scores))
    shown = {kind for result in data.scores for kind, number in result.corrected.errors.items() if number}
    axis = plots.nice_axis([r.corrected.f1.mean for r in ranked], 0.0, OVERVIEW_WIDTH, num_ticks=5, cap=1.0)
    sampled = groupby(data.answers, key=lambda view: view.task)
    return ScoreView(
        tasks=tasks,
        overview=_overview(ranked, axis),
        axis=axis,
        grid=_grid(data.scores, data.missing, data.grid_recipe) if data.scores or data.missing else None,
        answers=tuple((task, tuple(AnswerSample(v, tuple(mark_forms(v.text, v.marks))) for v in views)) for task, views in sampled),
        wrong={kind: ERROR_MEANINGS[kind] for kind in WRONG_KINDS if kind in shown},
        missed={kind: ERROR_MEANINGS[kind] for kind in MISSED_KINDS if kind in shown},
        fates=FATES,
    )


def _task(results: Sequence[ScoreResult], key: str, styles: Mapping[str, str]) -> ScoreTask:
    mine = sorted((r for r in results if r.task == key), key=lambda r: (-r.corrected.f1.mean, r.model, r.name, r.num_examples))
    axis = plots.nice_axis([r.variants[v].interval.high for r in mine for v in VARIANTS], 0.0, FOREST_WIDTH, cap=1.0)
    models = tuple(sorted({r.model for r in mine}))
    charts = (ScoreChart(model, _chart([r for r in mine if r.model == model], styles)) for model in models)
    there = {name for r in mine for name in r.corrected.scorings}
    return ScoreTask(
        key=key,
        rows=tuple(_row(r, axis, best=r is mine[0] and r.corrected.f1.mean > 0) for r in mine),
        axis=axis,
        charts=tuple(chart for chart in charts if chart.plot.lines),
        models=models,
        scorings=("strict", *(name for name in SCORINGS if name in there)),
    )


def _overview(ranked: Sequence[ScoreResult], axis: plots.Axis) -> tuple[ScoreOverview, ...]:
    rows = []
    for task, model in dict.fromkeys((r.task, r.model) for r in sorted(ranked, key=lambda r: (r.task, r.model))):
        mine = [r for r in ranked if (r.task, r.model) == (task, model)]
        zero = next((r for r in mine if r.method == ZERO_SHOT), None)
        drawn, chosen = (next((r for r in mine if r.role == role), None) for role in ("random", "selector"))
        rows.append(ScoreOverview(task, model, _mark(zero, axis), _mark(drawn, axis), _mark(chosen, axis), chosen))
    return tuple(rows)


def _mark(result: ScoreResult | None, axis: plots.Axis) -> plots.Mark | None:
    return plots.mark(result.corrected.interval, axis) if result else None


def _row(result: ScoreResult, axis: plots.Axis, *, best: bool) -> ScoreRow:
    raw, cleaned, corrected = (result.variants[variant] for variant in VARIANTS)
    score, errors, review = corrected, corrected.errors, result.review or ReviewCounts()
    fates = (
        ("as-it-stands", result.num_answers - raw.malformed),
        ("undressed", raw.malformed - cleaned.malformed),
        ("converted", cleaned.malformed - corrected.malformed - review.agreed_empty),
        ("agreed-empty", review.agreed_empty),
        ("empty", review.empty),
        ("no-list", corrected.malformed - review.empty),
    )
    found = ("right", score.total("tp"))
    return ScoreRow(
        result=result,
        best=best,
        raw=plots.mark(raw.interval, axis),
        cleaned=plots.mark(cleaned.interval, axis),
        corrected=plots.mark(corrected.interval, axis),
        fates=bar(fates, BAR_WIDTH),
        gold=bar([found, *((kind, errors[kind]) for kind in (*MISSED_KINDS[1:], MISSED_KINDS[0]))], BAR_WIDTH),
        given=bar([found, *((kind, errors[kind]) for kind in WRONG_KINDS)], BAR_WIDTH),
    )


def _chart(results: Sequence[ScoreResult], styles: Mapping[str, str]) -> Lines:
    """One line for every method (and setting) that was run with examples; each begins at the zero-shot run that was asked in the same way."""
    zeros = {r.source: r.corrected.interval for r in results if r.method == ZERO_SHOT}
    names = sorted({(r.role != "selector", r.name) for r in results if r.method != ZERO_SHOT})
    rows = []
    for _, name in names:
        members = sorted((r for r in results if r.name == name), key=lambda r: r.num_examples)
        starts = {r.zero_shot for r in members} - {None}
        zero = zeros.get(starts.pop() or "") if len(starts) == 1 else None
        rows.append(LineInput(name, styles[name], tuple((r.num_examples, r.corrected.interval) for r in members), zero))
    return lines(rows, *LINES_SIZE)


def _grid(results: Sequence[ScoreResult], missing: Sequence[MissingRun], recipe: str) -> Grid:
    there = {r.place for r in results}
    lacking = {m.place for m in missing}
    cells = there | lacking
    columns = sorted({(method != ZERO_SHOT, method, number) for _, _, method, number in cells})
    groups = groupby(columns, key=lambda column: column[1])
    return Grid(
        methods=tuple((method, tuple(number for _, _, number in members)) for method, members in groups),
        rows=tuple(
            GridRow(task, model, tuple(_state((task, model, method, number), there, lacking) for _, method, number in columns))
            for task, model in dict.fromkeys((task, model) for task, model, _, _ in sorted(cells))
        ),
        missing=tuple(missing),
        recipe=recipe,
    )


def _state(place: _Place, there: Collection[_Place], lacking: Collection[_Place]) -> Literal["scored", "missing", ""]:
    """A place may hold a run with one setting and lack that with another, and is missing then."""
    return "missing" if place in lacking else "scored" if place in there else ""

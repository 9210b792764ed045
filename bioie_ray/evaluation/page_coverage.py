"""What the page shows of selections, rerankers and sample queries, worked out from ``ReportData``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bioie_ray.evaluation import plots
from bioie_ray.evaluation.marking import Piece, mark_surfaces

if TYPE_CHECKING:  # report.py imports this module; only the types come back
    from bioie_ray.evaluation.report import Answer, ExampleView, MethodResult, QueryView, RankingRow, ReportData, RerankerSummary

FOREST_WIDTH = 200.0  # pixels of the interval column of a table
SCATTER_SIZE = (310.0, 230.0)
CURVE_SIZE = (420.0, 130.0)
OVERVIEW_WIDTH = 440.0


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A line of a task's table; ``mark`` is ``None`` where no query has a gold answer."""

    result: MethodResult
    mark: plots.Mark | None
    best: bool


@dataclass(frozen=True, slots=True)
class TaskView:
    """Everything shown of one task."""

    key: str
    rows: tuple[TaskRow, ...]
    axis: plots.Axis
    baseline_x: float | None
    scatter: plots.Scatter | None
    best: MethodResult | None
    baseline: MethodResult | None
    queries: tuple[SampleView, ...]


@dataclass(frozen=True, slots=True)
class SampleExample:
    """An example with its text cut into pieces and what it shares with the query."""

    view: ExampleView
    pieces: tuple[Piece, ...]
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """A gold answer of a query, and per rank whether the chosen (or random) example there shows it."""

    text: str
    chosen: tuple[bool, ...]
    random: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class SampleView:
    """One query's sample page."""

    query: QueryView
    pieces: tuple[Piece, ...]
    answers: tuple[SampleAnswer, ...]
    num_shown: int
    num_shown_random: int
    examples: tuple[SampleExample, ...]
    random_examples: tuple[SampleExample, ...]


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """From random to best, one task."""

    task: TaskView
    baseline: plots.Mark | None
    best: plots.Mark | None
    cheap: plots.Mark | None
    cheap_name: str


@dataclass(frozen=True, slots=True)
class RerankerView:
    """A reranker's numbers and marks."""

    summary: RerankerSummary
    curve: plots.Curve | None
    rows: tuple[tuple[RankingRow, plots.Mark, plots.Mark], ...]
    ndcg_axis: plots.Axis
    coverage_axis: plots.Axis


def task_view(data: ReportData, key: str) -> TaskView:
    """A task's table, best coverage first, its scatter and its sample queries."""
    results = sorted(
        (r for r in data.results if r.task == key),
        key=lambda r: (-(r.summary.coverage.mean if r.summary.coverage else -1.0), r.method),
    )
    intervals = [(r, r.summary.coverage) for r in results if r.summary.coverage is not None]
    axis = plots.nice_axis([i.high for _, i in intervals], 0.0, FOREST_WIDTH, cap=1.0)
    best = next((r for r, interval in intervals if r.role == "selector" and interval.mean > 0), None)
    baseline = next((r for r in results if r.method == data.baseline), None)
    base = baseline.summary.coverage if baseline else None
    dots = [(r.method, r.role, r.summary.mean_tokens, i) for r, i in intervals]
    return TaskView(
        key=key,
        rows=tuple(TaskRow(r, plots.mark(r.summary.coverage, axis) if r.summary.coverage else None, r is best) for r in results),
        axis=axis,
        baseline_x=axis.at(base.mean) if base else None,
        scatter=plots.scatter(dots, *SCATTER_SIZE) if dots else None,
        best=best,
        baseline=baseline,
        queries=tuple(_sample(q) for q in data.samples if q.task == key),
    )


def overview_rows(tasks: Sequence[TaskView]) -> tuple[plots.Axis, list[OverviewRow]]:
    """One line a task, on one axis."""
    highs = [r.result.summary.coverage.high for t in tasks for r in t.rows if r.result.summary.coverage]
    axis = plots.nice_axis(highs, 0.0, OVERVIEW_WIDTH, num_ticks=5, cap=1.0)

    def place(result: MethodResult | None) -> plots.Mark | None:
        return plots.mark(result.summary.coverage, axis) if result and result.summary.coverage else None

    rows = []
    for task in tasks:
        cheap = next((r.result for r in task.rows if r.result.role == "baseline"), None)
        rows.append(OverviewRow(task, place(task.baseline), place(task.best), place(cheap), cheap.method if cheap else ""))
    return axis, rows


def _sample(query: QueryView) -> SampleView:
    asked = {_key(a): a for a in query.answers}

    def show(examples: Sequence[ExampleView]) -> tuple[SampleExample, ...]:
        shown = []
        for example in examples:
            shared = [a for a in example.answers if _key(a) in asked]
            forms = [form for a in example.answers for form in a]
            pieces = mark_surfaces(example.text, forms, [form for a in shared for form in a])
            shown.append(SampleExample(example, tuple(pieces), tuple(dict.fromkeys(_answer(asked[_key(a)]) for a in shared))))
        return tuple(shown)

    def ranks(examples: Sequence[ExampleView], key: str) -> tuple[bool, ...]:
        return tuple(key in {_key(a) for a in e.answers} for e in examples)

    answers = tuple(
        SampleAnswer(_answer(a), ranks(query.examples, key), ranks(query.random_examples, key)) for key, a in sorted(asked.items())
    )
    return SampleView(
        query=query,
        pieces=tuple(mark_surfaces(query.text, [form for a in query.answers for form in a], [])),
        answers=answers,
        num_shown=sum(any(a.chosen) for a in answers),
        num_shown_random=sum(any(a.random) for a in answers),
        examples=show(query.examples),
        random_examples=show(query.random_examples),
    )


def reranker_view(summary: RerankerSummary) -> RerankerView:
    """A reranker's rankings, best first, and its loss."""
    ndcg = plots.nice_axis([r.ndcg.high for r in summary.rankings], 0.0, FOREST_WIDTH, cap=1.0)
    coverage = plots.nice_axis([r.coverage.high for r in summary.rankings], 0.0, FOREST_WIDTH, cap=1.0)
    rows = sorted(summary.rankings, key=lambda r: (-r.ndcg.mean, r.method))
    return RerankerView(
        summary=summary,
        curve=plots.curve(summary.losses, *CURVE_SIZE) if len(summary.losses) > 1 else None,
        rows=tuple((r, plots.mark(r.ndcg, ndcg), plots.mark(r.coverage, coverage)) for r in rows),
        ndcg_axis=ndcg,
        coverage_axis=coverage,
    )


def _key(answer: Answer) -> str:
    return "\0".join(form.lower() for form in answer)


def _answer(answer: Answer) -> str:
    return " → ".join(answer)

"""The report's page: what the templates need, worked out from ``ReportData``; the templates only place it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bioie_ray.evaluation import plots
from bioie_ray.evaluation.coverage import Interval
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


def render(data: ReportData, csv_name: str, json_name: str) -> str:
    """The page as one HTML text without any reference to the network; all text of the data is escaped."""
    env = Environment(
        loader=PackageLoader("bioie_ray.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(percent=_percent, bare_percent=lambda share: f"{share * 100:.1f}", points=_points, count=_count)
    style, script = (_source(env, name) for name in ("report.css", "report.js"))
    tasks = [_task(data, key) for key in dict.fromkeys(r.task for r in data.results)]
    sampled = {q.task for q in data.samples} - {t.key for t in tasks}
    if sampled:
        raise ValueError(f"sample queries of {', '.join(sorted(sampled))}, but no result of that task; give both or neither")
    overview_axis, overview = _overview(tasks)
    return env.get_template("report.html.j2").render(
        data=data,
        tasks=tasks,
        headline=_headline(data, tasks),
        overview=overview,
        overview_axis=overview_axis,
        rerankers=[_reranker(r) for r in data.rerankers],
        style=Markup(style),  # noqa: S704  our own file, no data in it
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
        csv_name=csv_name,
        json_name=json_name,
        forest_width=FOREST_WIDTH,
        overview_width=OVERVIEW_WIDTH,
    )


def _task(data: ReportData, key: str) -> TaskView:
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


def _overview(tasks: Sequence[TaskView]) -> tuple[plots.Axis, list[OverviewRow]]:
    highs = [r.result.summary.coverage.high for t in tasks for r in t.rows if r.result.summary.coverage]
    axis = plots.nice_axis(highs, 0.0, OVERVIEW_WIDTH, num_ticks=5, cap=1.0)

    def place(result: MethodResult | None) -> plots.Mark | None:
        return plots.mark(result.summary.coverage, axis) if result and result.summary.coverage else None

    rows = []
    for task in tasks:
        cheap = next((r.result for r in task.rows if r.result.role == "baseline"), None)
        rows.append(OverviewRow(task, place(task.baseline), place(task.best), place(cheap), cheap.method if cheap else ""))
    return axis, rows


def _headline(data: ReportData, tasks: Sequence[TaskView]) -> str:
    pairs: list[tuple[TaskView, Interval, Interval]] = []
    for task in tasks:
        best, base = (r.summary.coverage if r else None for r in (task.best, task.baseline))
        if best and base:
            pairs.append((task, best, base))
    if len(pairs) == 1 == len(tasks):
        task, best, base = pairs[0]
        assert task.best is not None
        return (
            f"On {task.key}, the {data.keep} examples that {task.best.method} chooses show {_percent(best.mean)} of a query's gold "
            f"answers. {data.keep} random ones ({data.baseline}) show {_percent(base.mean)}."
        )
    if pairs:
        factors = sorted(best.mean / base.mean for _, best, base in pairs if base.mean > 0)
        won = sum(t.best is not None and t.best.summary.difference is not None and t.best.summary.difference.low > 0 for t, _, _ in pairs)
        if not won:
            return f"On none of {len(tasks)} tasks do a selector's examples clearly show more of a query's gold answers than random ones ({data.baseline})."
        span = f", {factors[0]:.1f} to {factors[-1]:.1f} times as many" if factors else ""
        which = f"all {len(tasks)}" if won == len(tasks) else f"{won} of {len(tasks)}"
        return f"On {which} tasks the best selector's examples clearly show more of a query's gold answers than random ones ({data.baseline}){span}."
    if any(task.baseline for task in tasks):
        return "No selector's examples show any gold answer of these queries."
    if data.results:
        return f"Gold coverage of {len(data.results)} selections; no {data.baseline} among them to compare with."
    documents = sum(s.documents for c in data.corpora for s in c.splits)
    parts = [f"{len(data.corpora)} corp{'ora' if len(data.corpora) > 1 else 'us'} with {documents:,} documents"] if data.corpora else []
    parts += [f"{sum(v.num_texts for v in data.vectors):,} embedded texts"] if data.vectors else []
    parts += [f"{len(data.rerankers)} trained reranker{'s' if len(data.rerankers) > 1 else ''}"] if data.rerankers else []
    return ", ".join(parts) + "."


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


def _reranker(summary: RerankerSummary) -> RerankerView:
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


def _percent(share: float, decimals: int = 1) -> str:
    return f"{share * 100:.{decimals}f}\u00a0%"  # a space that does not break


def _points(share: float) -> str:
    return f"{share * 100:+.1f}".replace("-", "−")  # a minus, as wide as the plus


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _source(env: Environment, name: str) -> str:
    assert env.loader is not None
    return env.loader.get_source(env, name)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

"""The one sentence at the top of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.numbers import percent
from bioie_ray.evaluation.page_coverage import TaskView
from bioie_ray.evaluation.page_scores import ScoreTask
from bioie_ray.evaluation.score_results import ZERO_SHOT, ScoreResult

if TYPE_CHECKING:  # report.py imports this module; only the types come back
    from bioie_ray.evaluation.report import ReportData


def headline(data: ReportData, tasks: Sequence[TaskView], scored: Sequence[ScoreTask]) -> str:
    """What the page says, in a sentence: of scores where there are any, else of coverage, else what lies there."""
    return _of_scores(scored) if scored else _of_coverage(data, tasks)


def _of_scores(tasks: Sequence[ScoreTask]) -> str:
    pairs: list[tuple[ScoreResult, list[ScoreResult]]] = []
    for task in tasks:
        for model in dict.fromkeys(row.result.model for row in task.rows):
            runs = [row.result for row in task.rows if row.result.model == model]
            chosen = next((run for run in runs if run.role == "selector"), None)
            if chosen:
                pairs.append((chosen, runs))
    if not pairs:
        best = tasks[0].rows[0].result
        how = "without examples" if best.method == ZERO_SHOT else f"with {_examples(best.num_examples)} of {best.method}"
        return f"On {best.task}, {best.model} {how} reaches an F1 of {percent(best.corrected.f1.mean)}."
    if len(pairs) == 1:
        best, runs = pairs[0]
        others = [f"{percent(run.corrected.f1.mean)} without examples" for run in runs if run.method == ZERO_SHOT][:1]
        others += [
            f"{percent(run.corrected.f1.mean)} with random ones ({run.method})"
            for run in runs
            if run.method == best.baseline and run.num_examples == best.num_examples
        ][:1]
        against = f", {' and '.join(others)}" if others else ""
        return (
            f"On {best.task}, {best.model} reaches an F1 of {percent(best.corrected.f1.mean)} with {_examples(best.num_examples)} chosen by "
            f"{best.method}{against}."
        )
    compared = [best for best, _ in pairs if best.against]
    won = sum(best.against is not None and best.against.difference.low > 0 for best in compared)
    what = f"{len(pairs)} pairs of task and model" if len({best.model for best, _ in pairs}) > 1 else f"{len(pairs)} tasks"
    if not compared:
        return f"F1 of {sum(len(task.rows) for task in tasks)} runs over {what}; none of random examples to compare with."
    which = f"all {what}" if won == len(pairs) else f"none of {what}" if not won else f"{won} of {what}"
    return f"On {which}, the best run with chosen examples has a clearly higher F1 than as many random ones ({compared[0].baseline})."


def _examples(number: int) -> str:
    return f"{number} example{'' if number == 1 else 's'}"


def _of_coverage(data: ReportData, tasks: Sequence[TaskView]) -> str:
    pairs: list[tuple[TaskView, Interval, Interval]] = []
    for task in tasks:
        best, base = (r.summary.coverage if r else None for r in (task.best, task.baseline))
        if best and base:
            pairs.append((task, best, base))
    if len(pairs) == 1 == len(tasks):
        task, best, base = pairs[0]
        assert task.best is not None
        return (
            f"On {task.key}, the {data.keep} examples that {task.best.method} chooses show {percent(best.mean)} of a query's gold "
            f"answers. {data.keep} random ones ({data.baseline}) show {percent(base.mean)}."
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
    parts += [f"{sum(i.num_rows for i in data.instructions):,} conversations to tune on"] if data.instructions else []
    parts += [f"{sum(p.num_pairs for p in data.preferences):,} preference pairs"] if data.preferences else []
    parts += [f"{len(data.stages)} trained stage{'s' if len(data.stages) > 1 else ''}"] if data.stages else []
    parts += [f"{len(data.rerankers)} trained reranker{'s' if len(data.rerankers) > 1 else ''}"] if data.rerankers else []
    return ", ".join(parts) + "."

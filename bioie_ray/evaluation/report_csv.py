"""The report's tables as CSV, one line a row of a table, numbers unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from bioie_ray.evaluation.errors import ERROR_KINDS
from bioie_ray.evaluation.score_results import ReviewCounts, ScoreResult, VariantScore
from bioie_ray.evaluation.statistics import Spread
from bioie_ray.evaluation.table import SCORINGS
from bioie_ray.evaluation.training_results import StageSummary

if TYPE_CHECKING:  # report.py imports this module; only the types come back
    from bioie_ray.evaluation.report import ReportData


_REVIEW: Final = tuple(field.name for field in fields(ReviewCounts))


def coverage_csv(data: ReportData) -> str:
    """The coverage table."""
    stats = [f"{name}{end}" for name in ("coverage", "difference", "per_1000_tokens") for end in ("", "_low", "_high")]
    counts = ["short_queries", "excluded_query", "excluded_duplicate_text", "num_truncated"]
    rest = ["num_queries", "num_without_gold", "num_draws", "mean_tokens", "mean_examples"]
    rows = []
    for result in data.results:
        cells: list[object] = [result.task, result.method, result.role, data.baseline]
        for interval in (result.summary.coverage, result.summary.difference, result.summary.per_1000_tokens):
            cells += [interval.mean, interval.low, interval.high] if interval else ["", "", ""]
        cells += [getattr(result.summary, name) for name in rest]
        cells += [getattr(result, name) for name in counts]
        rows.append([*cells, " ".join(result.sources)])
    return _text(["task", "method", "role", "baseline", *stats, *rest, *counts, "sources"], rows)


def scores_csv(scores: Iterable[ScoreResult]) -> str:
    """The scores: one line for every run and variant, and ``repeat`` ``all``; then one for each repeat, without what only a run has."""
    run = ["task", "model", "method", "setting", "num_examples", "variant", "repeat"]
    spreads = [f"{name}{end}" for name in ("precision", "recall", "f1") for end in ("", "_sd", "_min", "_max")]
    others = [f"{name}_{value}" for name in SCORINGS if name != "strict" for value in ("precision", "recall", "f1", "f1_low", "f1_high")]
    compared = ["difference", "difference_low", "difference_high", "difference_p", "baseline"]
    totals = ["tp", "fp", "fn", "malformed", "undecided"]
    errors = [f"error_{kind}" for kind in ERROR_KINDS]
    rows: list[list[object]] = []
    for result in scores:
        for variant, score in result.variants.items():
            first: list[object] = [result.task, result.model, result.method, result.setting, result.num_examples, variant]
            last: list[object] = [
                result.num_documents,
                result.num_repeats,
                result.num_decisions,
                result.mean_examples,
                result.num_not_asked,
                *(getattr(result.review, name, "") for name in _REVIEW),
                result.source,
            ]
            rows.append([*first, "all", *_run_cells(result, score, corrected=variant == "corrected"), *last])
            width = len(others) + len(compared) + len(errors)
            for row in score.repeats:
                single: list[object] = [cell for name in ("precision", "recall", "f1") for cell in (getattr(row, name), "", "", "")]
                numbers = [getattr(row, name) for name in totals]
                rows.append([*first, row.repeat, *single, "", "", *numbers, *[""] * width, *last])
    header = [*run, *spreads, "f1_low", "f1_high", *totals, *others, *compared, *errors]
    counts = ["num_documents", "num_repeats", "num_decisions", "mean_examples", "num_not_asked", *(f"num_{name}" for name in _REVIEW)]
    return _text([*header, *counts, "source"], rows)


def training_csv(stages: Iterable[StageSummary]) -> str:
    """Every number of every training step that was logged, one a line."""
    rows = [
        [summary.stage, summary.source, summary.seed, step, metric, value]
        for summary in stages
        for metric, points in summary.trace.items()
        for step, value in points
    ]
    return _text(["stage", "source", "seed", "step", "metric", "value"], rows)


def _run_cells(result: ScoreResult, score: VariantScore, *, corrected: bool) -> list[object]:
    cells = [cell for spread in (score.precision, score.recall, score.f1) for cell in _spread(spread)]
    cells += [score.interval.low, score.interval.high]
    cells += [score.total("tp"), score.total("fp"), score.total("fn"), score.malformed, score.undecided]
    for name in SCORINGS:
        if name != "strict":
            other = score.scorings.get(name)
            cells += [other.precision, other.recall, other.f1.mean, other.interval.low, other.interval.high] if other else [""] * 5
    if corrected and result.against:
        difference = result.against.difference
        cells += [difference.mean, difference.low, difference.high, result.against.p, result.baseline]
    else:
        cells += [""] * 5
    return [*cells, *(score.errors[kind] for kind in ERROR_KINDS)]


def _spread(spread: Spread) -> list[object]:
    return [spread.mean, "" if spread.sd is None else spread.sd, spread.min, spread.max]


def _text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()

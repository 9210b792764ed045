"""The scores of a run as ``bioie show`` prints them, and those of all runs of a recipe as ``bioie run`` ends with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from bioie_ray.evaluation.score_results import VariantScore, summary_variants
from bioie_ray.evaluation.statistics import Spread

_MOST_OUTPUTS: Final = 20  # of a grid of thousands, the report is what one looks at


def score_lines(scores: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A plain table of (key, record) of finished scores: means over the repeats in percent, malformed answers of all repeats together."""
    if not scores:
        return []
    shown = scores[:_MOST_OUTPUTS]
    width = max(len("mean over repeats, %"), *(len(key) for key, _ in shown))
    lines = [f"{'mean over repeats, %':{width}}  {'':9}  precision  recall     f1  malformed"]
    for key, record in shown:
        for place, (variant, score) in enumerate(summary_variants(record["summary"]).items()):
            precision, recall, f1 = (f"{100 * spread.mean:.1f}" for spread in (score.precision, score.recall, score.f1))
            lines.append(f"{'' if place else key:{width}}  {variant:9}  {precision:>9}  {recall:>6}  {f1:>5}  {score.malformed:>9,}")
    if len(scores) > len(shown):
        lines.append(f"and {len(scores) - len(shown):,} more outputs; bioie report shows all")
    return lines


def score_table(record: Mapping[str, Any]) -> Table:
    """Precision, recall, F1 (percent) and malformed answers of every repeat, raw, cleaned and corrected; then over the repeats."""
    summary, examples = record["summary"], record["num_examples"]
    how = record["method"] if not examples else f"{examples} example{'' if examples == 1 else 's'} by {record['method']}"
    table = Table(
        *("variant", "repeat", "precision", "recall", "f1", "malformed", "undecided"),
        title=f"{record['task']}, {record['model']}, {how}: {summary['num_documents']:,} documents",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for variant, score in summary_variants(summary).items():
        for row in score.repeats:
            numbers = (f"{100 * number:.1f}" for number in (row.precision, row.recall, row.f1))
            table.add_row(variant, str(row.repeat), *numbers, f"{row.malformed:,}", f"{row.undecided:,}")
        if len(score.repeats) > 1:
            table.add_row(variant, "mean", *(_spread(s) for s in (score.precision, score.recall, score.f1)), *_per_repeat(score))
        low, high = (f"{100 * bound:.1f}" for bound in (score.interval.low, score.interval.high))
        table.add_row(variant, f"{100 * summary['confidence']:g} %", "", "", f"{low} to {high}", end_section=True)
    return table


def _spread(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f}" if spread.sd is None else f"{100 * spread.mean:.1f} ± {100 * spread.sd:.1f}"


def _per_repeat(score: VariantScore) -> tuple[str, str]:
    return f"{score.malformed / len(score.repeats):,.1f}", f"{score.undecided / len(score.repeats):,.1f}"

#!/usr/bin/env python
"""What ``scripts/demo.sh`` ends with: the tables of its store's report, and where to look next.

scripts/demo_summary.py STORE          after `bioie report STORE --out STORE/report.html`
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bioie_ray.config.training import STAGES

Row = Mapping[str, str]


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def coverage_table(rows: Iterable[Row]) -> Iterator[str]:
    """Gold coverage of the demo's selections; those that the grid of answers made for itself are left out."""
    yield f"{'gold coverage of ten examples':44}{'all':>7}{'vs random':>12}{'per 1,000 tokens':>19}"
    for row in rows:
        if "selections/demo-" not in row["sources"]:
            continue
        versus = f"{float(row['difference']):+.3f}" if row["difference"] and row["method"] != row["baseline"] else ""
        task = row["task"].partition(" [")[0]  # the mark that tells it from the grid's
        yield f"{task:18}{row['method']:26}{float(row['coverage']):7.3f}{versus:>12}{float(row['per_1000_tokens'] or 0):19.3f}"


def by_variant(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], dict[str, Row]]:
    """Scores over all repeats: those of one run, which has these columns in common, by their variant."""
    runs: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        runs.setdefault(tuple(row[name] for name in names), {})[row["variant"]] = row
    return runs


def scores_table(rows: Iterable[Row]) -> Iterator[str]:
    """F1 of the grid of answers."""
    runs = by_variant(rows, "model", "task", "num_examples", "method")
    yield f"{'F1 of ' + next(iter(runs))[0]:28}{'examples':>10}{'raw':>8}{'cleaned':>9}{'corrected':>11}{'malformed':>11}{'undecided':>11}"
    for (_, task, num_examples, method), run in sorted(
        runs.items(), key=lambda item: (item[0][0], item[0][1], int(item[0][2]), item[0][3])
    ):
        raw, cleaned, corrected = (run[variant] for variant in ("raw", "cleaned", "corrected"))
        f1 = f"{float(raw['f1']):8.3f}{float(cleaned['f1']):9.3f}{float(corrected['f1']):11.3f}"
        yield f"{task:16}{method:12}{num_examples:>10}{f1}{cleaned['malformed']:>11}{corrected['undecided']:>11}"


def stages_table(rows: Iterable[Row]) -> Iterator[str]:
    """F1 of the tuned model, stage by stage, after the base model."""
    yield f"{'F1 on biorelex, stage by stage':38}{'raw':>8}{'cleaned':>9}{'':11}{'malformed':>11}"
    order = {stage: place for place, stage in enumerate(STAGES)}
    for (model,), run in sorted(by_variant(rows, "model").items(), key=lambda item: order.get(item[0][0], -1)):
        f1 = f"{float(run['raw']['f1']):8.3f}{float(run['cleaned']['f1']):9.3f}"
        yield f"{model:38}{f1}{'':11}{run['cleaned']['malformed']:>11}"


def is_tuned(row: Row) -> bool:
    """Whether a score is of a stage (or of the base model beside them), not of the grid."""
    return row["source"].startswith("scores/dfpo-")


def summary(store: Path) -> Iterator[str]:
    """All lines."""
    scores = [row for row in read(store / "report.scores.csv") if row["repeat"] == "all"]
    tuned = [row for row in scores if is_tuned(row)]
    yield ""
    yield from coverage_table(read(store / "report.csv"))
    yield ""
    yield from scores_table(row for row in scores if not is_tuned(row))
    if tuned:
        yield ""
        yield from stages_table(tuned)
    selection = min((store / "selections").glob("*rag-icl*"))
    review = min((store / "dmcr").glob("*similarity-3*"))
    yield ""
    yield f"the ten best examples of every query:  {selection / 'best_examples.json'}"
    yield f"decide what two evaluators could not:  .venv/bin/bioie review {review}"
    yield f"the page to look at:                   {(store / 'report.html').resolve()}"


if __name__ == "__main__":
    print("\n".join(summary(Path(sys.argv[1]))))

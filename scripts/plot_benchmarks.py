#!/usr/bin/env python
"""Pictures of measurements that no benchmark draws itself.

    scripts/plot_benchmarks.py coverage REPORT.csv --out coverage.svg      gold coverage of each method, from `bioie report`
    scripts/plot_benchmarks.py examples REPORT.scores.csv --out examples.svg    F1 against the number of examples, from `bioie report`
    scripts/plot_benchmarks.py dpop STORE [STORE ...] --out dpop.svg       DPO-Positive beside DPO, from `dfpo_small_models.yaml`

``dpop`` reads what trainings wrote into their ``metrics.jsonl``. One panel a task and metric: the chosen answers' log-ratio to the reference,
which is what the penalty protects, and the reward margin. A thin line is one seed's training, a thick one the mean over seeds. Which loss a
training had is read from its record.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "bioie"  # the same bytes from the same numbers
import matplotlib.pyplot as plt  # noqa: E402 - after the backend is chosen

METRICS = {"logratios/chosen": "chosen log-ratio", "rewards/margins": "reward margin"}
COLOURS = {"DPOP": "tab:blue", "DPO": "tab:orange"}
Trainings = dict[tuple[str, str], list[list[dict[str, float]]]]  # (task, loss) -> the steps of each seed


def coverage(table: Path) -> Any:
    """A panel a task, a line a method: gold coverage with its interval, best method of all tasks on top."""
    with table.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    tasks = sorted({row["task"] for row in rows})
    by_method: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(float(row["coverage"]))
    methods = sorted(by_method, key=lambda method: float(np.mean(by_method[method])))
    figure, axes = plt.subplots(1, len(tasks), figsize=(2.1 * len(tasks) + 1.5, 3.2), sharey=True, squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        mine = {
            row["method"]: [100 * float(row[name]) for name in ("coverage", "coverage_low", "coverage_high")]
            for row in rows
            if row["task"] == task
        }
        for place, method in enumerate(methods):
            if method in mine:
                mean, low, high = mine[method]
                axis.plot([low, high], [place, place], color="tab:blue", lw=1.5)
                axis.plot(mean, place, "o", color="tab:blue", ms=4)
        axis.set_title(task, fontsize=9)
        axis.set_xlim(left=0)
        axis.grid(axis="x", lw=0.4)
    axes[0][0].set_yticks(range(len(methods)), methods, fontsize=8)
    figure.supxlabel("per cent of a query's gold answers in its ten examples, 95 % interval", fontsize=9)
    return figure


def examples(table: Path) -> Any:
    """A panel a task, a line a method: corrected F1 against the number of examples, with intervals over documents."""
    with table.open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["variant"] == "corrected" and row["repeat"] == "all"]
    tasks = sorted({row["task"] for row in rows})
    methods = sorted({row["method"] for row in rows if row["num_examples"] != "0"})
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.4), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for place, method in enumerate(methods):
            mine = sorted(
                (int(row["num_examples"]), *(100 * float(row[name]) for name in ("f1", "f1_low", "f1_high")))
                for row in rows
                if row["task"] == task and (row["method"] == method or row["num_examples"] == "0")
            )
            at = [number + 0.08 * (place - (len(methods) - 1) / 2) * (number > 0) for number, *_ in mine]
            axis.plot(at, [f1 for _, f1, *_ in mine], "o-", color=f"C{place}", lw=1.5, ms=4, label=method)
            axis.vlines(at, [low for *_, low, _ in mine], [high for *_, high in mine], color=f"C{place}", lw=1)
        axis.set(title=task, xlabel="examples in the prompt (0: zero-shot)", ylabel="F1, %, 95 % interval", ylim=(0, None))
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.grid(axis="y", lw=0.4)
    return figure


def read(stores: Sequence[Path]) -> Trainings:
    """What was logged at every step of every finished training of pairs."""
    found: Trainings = defaultdict(list)
    for record in sorted(path for store in stores for path in (store / "models-dpop").glob("*/record.json")):
        recipe = json.loads(record.read_text())["recipe"]
        steps = map(json.loads, record.with_name("metrics.jsonl").read_text().splitlines())
        loss = "DPOP" if recipe["dpop"]["penalty"] else "DPO"
        found[recipe["task"], loss].append(list(steps))
    return found


def dpop(stores: Sequence[Path]) -> Any:
    """A column a task, a row a metric."""
    trainings = read(stores)
    tasks = sorted({task for task, _ in trainings})
    if not tasks:
        raise SystemExit(
            f"no finished training in models-dpop/ of {', '.join(map(str, stores))}; run jobs/recipes/dfpo_small_models.yaml first"
        )
    figure, axes = plt.subplots(
        len(METRICS), len(tasks), figsize=(4.5 * len(tasks), 5.5), sharex="col", squeeze=False, layout="constrained"
    )
    for row, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for axis, task in zip(row, tasks, strict=True):
            axis.axhline(0, color="grey", lw=0.8)
            for loss, colour in COLOURS.items():
                seeds = [[step[metric] for step in steps if metric in step] for steps in trainings.get((task, loss), ())]
                for seed in seeds:
                    axis.plot(range(1, len(seed) + 1), seed, color=colour, lw=0.6, alpha=0.5)
                if seeds:
                    mean = np.mean([seed[: min(map(len, seeds))] for seed in seeds], axis=0)
                    axis.plot(
                        range(1, len(mean) + 1), mean, color=colour, lw=2, label=f"{loss} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"
                    )
            axis.set_title(f"{task}: {title}", fontsize=10)
            axis.legend(frameon=False, fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "examples", "dpop"))
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="a report's CSV file, or stores")
    parser.add_argument("--out", type=Path, required=True, help=".svg or .png")
    arguments = parser.parse_args()
    if arguments.what == "dpop":
        figure = dpop(arguments.sources)
    else:
        figure = {"coverage": coverage, "examples": examples}[arguments.what](arguments.sources[0])
    figure.savefig(arguments.out, metadata={"Date": None} if arguments.out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()

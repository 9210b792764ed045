#!/usr/bin/env python
"""DPO-Positive beside DPO, step by step, as a picture: what the trainings of `dfpo_small_models.yaml` wrote into their ``metrics.jsonl``.

    scripts/plot_dpop.py STORE [STORE ...] --out dpop.svg

One panel a task and metric: the chosen answers' log-ratio to the reference, which is what the penalty protects, and the reward margin. A thin
line is one seed's training, a thick one the mean over seeds. Which loss a training had is read from its record.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

METRICS = {"logratios/chosen": "chosen log-ratio", "rewards/margins": "reward margin"}
COLOURS = {"DPOP": "tab:blue", "DPO": "tab:orange"}
Curves = dict[tuple[str, str], list[list[float]]]  # (task, loss) -> one curve a seed


def read(stores: Sequence[Path], metric: str) -> Curves:
    """The metric at every step of every finished training of pairs."""
    found: Curves = defaultdict(list)
    for record in sorted(path for store in stores for path in (store / "models-dpop").glob("*/record.json")):
        recipe = json.loads(record.read_text())["recipe"]
        steps = map(json.loads, record.with_name("metrics.jsonl").read_text().splitlines())
        loss = "DPOP" if recipe["dpop"]["penalty"] else "DPO"
        found[recipe["task"], loss].append([step[metric] for step in steps if metric in step])
    return found


def draw(stores: Sequence[Path], out: Path) -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "bioie"  # the same bytes from the same numbers
    import matplotlib.pyplot as plt

    tasks = sorted({task for task, _ in read(stores, "logratios/chosen")})
    figure, axes = plt.subplots(
        len(METRICS), len(tasks), figsize=(4.5 * len(tasks), 5.5), sharex="col", squeeze=False, layout="constrained"
    )
    for row, (metric, title) in zip(axes, METRICS.items(), strict=True):
        curves = read(stores, metric)
        for axis, task in zip(row, tasks, strict=True):
            axis.axhline(0, color="grey", lw=0.8)
            for loss, colour in COLOURS.items():
                seeds = curves[task, loss]
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
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    parser.add_argument("--out", type=Path, required=True, help=".svg or .png")
    arguments = parser.parse_args()
    draw(arguments.stores, arguments.out)

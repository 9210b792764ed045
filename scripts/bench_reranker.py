#!/usr/bin/env python
"""Train the reranker of a task over several seeds and print how it ranks queries that it never saw.

    python scripts/bench_reranker.py --source DIR_OF_CORPORA --task bc5cdr_disease --seeds 3 [--set KEY=VALUE ...] [--store DIR]

Each seed draws its own held-out queries, its own pairs and their order. Compared on the same queries: the reranked
candidates, the same candidates in the order of the cosine, BM25 over the same pool, and a random draw. With --store, a run that
was killed goes on where it was, and what is done is not done again.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bioie_ray.config.recipe import Recipe, load_recipe
from bioie_ray.pipeline.job import run_recipe

Row = dict[str, Any]


def recipe_of_seed(options: argparse.Namespace, store: str, seed: int) -> Recipe:
    """The recipe of one seed; all seeds share corpus and vectors, because only the reranker's name differs."""
    data = {
        "name": f"bench_{options.task}",
        "job": "train_reranker",
        "task": options.task,
        "seed": seed,
        "source": str(options.source),
        "store": store,
        "train_reranker": {"name": f"{options.task}-seed{seed}"},
        "cluster": {"executor": "inline"},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(data, file)
        file.flush()
        return load_recipe(Path(file.name), options.overrides)


def record_of_seed(recipe: Recipe) -> Row:
    """Train (or find the finished output) and return its record."""
    from bioie_ray.pipeline.plan import Planner

    run_recipe(recipe)
    record: Row = Planner().reranker(recipe).output.record()
    return record


def table(records: Sequence[Row]) -> Iterator[str]:
    """Mean over seeds with the smallest and largest seed, and the gain over the cosine seed by seed."""
    yield "| ranking | nDCG@10 | against cosine | gold coverage@10 | against cosine |"
    yield "| --- | --- | --- | --- | --- |"
    by_method: dict[str, list[Row]] = {}
    for record in records:
        for row in record["held_out"]:
            by_method.setdefault(row["method"], []).append(row)
    for method, rows in sorted(by_method.items(), key=lambda item: -statistics.mean(r["ndcg"]["mean"] for r in item[1])):
        cells = [method]
        for measure in ("ndcg", "coverage"):
            values = [row[measure]["mean"] for row in rows]
            gains = [value - base[measure]["mean"] for value, base in zip(values, by_method["cosine"], strict=True)]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            cells.append("" if method == "cosine" else f"{statistics.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})")
        yield "| " + " | ".join(cells) + " |"


def describe(options: argparse.Namespace, records: Sequence[Row]) -> Iterator[str]:
    """What was trained, for how long, on what."""
    trainings = [record["training"] for record in records]
    seconds = [t["train_s"] for t in trainings]
    queries = sum(t["held_out_queries"] for t in trainings)
    yield f"{options.task}: {len(records)} seeds, {queries} held-out queries in all; mean (smallest to largest seed)."
    yield (
        f"{statistics.mean(t['pairs'] for t in trainings):.0f} pairs of {statistics.mean(t['queries'] for t in trainings):.0f} queries a seed, "
        f"trained in {statistics.mean(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f}) on {platform.processor() or platform.machine()}."
    )


def main() -> int:
    """Run all seeds and print the table as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the task's corpus in its original format")
    parser.add_argument("--task", default="bc5cdr_disease")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", help="keep outputs here, and go on from what is there")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="repeatable, as in bioie run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-reranker-") as scratch:
        try:
            records = [record_of_seed(recipe_of_seed(options, options.store or scratch, seed)) for seed in range(options.seeds)]
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print("\n".join([*describe(options, records), "", *table(records)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

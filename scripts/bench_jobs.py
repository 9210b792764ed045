#!/usr/bin/env python
"""What Ray costs, and whether a selection's memory grows with its queries.

    scripts/bench_jobs.py ray --source DIR_OF_BIORELEX          one Ray actor against one plain process, the same shards
    scripts/bench_jobs.py memory --source DIR_OF_BIORELEX       peak memory of a selection with 500 and with 5,000 queries

``ray`` times the same units of the same selection (retrieve, rerank, choose, write) from the end of the first unit to the end of
the last, by their markers in the store, so that starting Ray and loading models are apart; runs alternate, and the interval is a bootstrap over the pairs.
``memory`` runs ``select`` in a process of its own over a corpus whose test documents are repeated, each with another text.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.config.recipe import Recipe
from bioie_ray.corpora.document import from_table, to_table
from bioie_ray.corpora.tasks import TASKS
from bioie_ray.execution.units import run_units
from bioie_ray.pipeline.job import set_environment
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.run import run_plan
from bioie_ray.pipeline.select import SelectStep


def recipe_of(options: argparse.Namespace, store: str, **changes: object) -> Recipe:
    data = {
        "name": "bench",
        "job": "select_examples",
        "store": store,
        "task": options.task,
        "source": options.source,
        "prepare": {"documents_per_shard": options.documents_per_shard},
        "rerank": {"model": options.reranker, "threads": options.threads, "max_length": options.max_length},
        "cluster": {"executor": "inline"},
    }
    return Recipe.model_validate({**data, **changes})


def selection_of(recipe: Recipe) -> SelectStep:
    """The selection step, with everything before it done."""
    *before, last = Planner().plan(recipe)
    run_plan(before, Progress(quiet=True))
    assert isinstance(last, SelectStep)
    return last


def seconds_after_first(recipe: Recipe, executor: str, threads: int) -> float:
    """From the first unit's marker to the last one's: Ray tells of a unit when the next is under way, so when it tells is no measure."""
    step = selection_of(recipe)
    step.output.claim()

    def on_done(_: str, failure: object) -> None:
        assert failure is None, failure

    spec = dataclasses.replace(step.worker(), threads=threads)
    run_units(spec, step.units(), ClusterSettings(executor=executor, num_workers=1), on_done)
    markers = (step.output.address.folder / step.output.key / "_markers").glob("[!.]*.json")
    done_ns = [path.stat().st_mtime_ns for path in markers]
    return (max(done_ns) - min(done_ns)) / 1e9


def bench_ray(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as store:
        ratios = []
        print("| pair | plain process, s | one Ray actor, s | ratio |\n| --- | --- | --- | --- |", flush=True)
        for pair in range(options.pairs):
            seconds = {}
            order = ["inline", "ray"] if pair % 2 == 0 else ["ray", "inline"]
            for executor in order:
                recipe = recipe_of(options, store, name=f"bench-{executor}-{pair}")
                seconds[executor] = seconds_after_first(recipe, executor, options.threads)
            ratios.append(seconds["ray"] / seconds["inline"])
            print(f"| {pair + 1} | {seconds['inline']:.2f} | {seconds['ray']:.2f} | {ratios[-1]:.3f} |", flush=True)
        drawn = np.random.default_rng(0).choice(ratios, (2_000, len(ratios)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        print(f"\nmedian ratio {np.median(ratios):.3f} (95 % interval {low:.3f} to {high:.3f}) over {len(ratios)} pairs")


def multiply_queries(corpus: Output, target: Output, num_queries: int) -> None:
    """A corpus with ``num_queries`` test documents: the real ones over and over, each with another first word."""
    markers = [target.commit(shard, corpus.read_shard(shard), {}) for shard in corpus.shards(["train"])]
    originals = [d for shard in corpus.shards(["test"]) for d in from_table(corpus.read_shard(shard))]

    def copies() -> Iterator[object]:
        for i in range(num_queries):
            document = originals[i % len(originals)]
            yield dataclasses.replace(document, id=f"{document.id}.{i}", text=f"{document.text} Copy {i}.")

    rows = list(copies())
    for index, start in enumerate(range(0, len(rows), 64)):
        markers.append(target.commit(f"test-{index:05d}", to_table(rows[start : start + 64]), {}))
    target.finish({"payload": dict(target.payload), "shards": [{"shard": marker.shard} for marker in markers]})


def bench_memory(options: argparse.Namespace) -> None:
    """Each size in processes of its own: the peak of making a corpus and its vectors is not the peak of selecting."""
    print("| queries | peak memory of select, MiB | seconds |\n| --- | --- | --- |", flush=True)
    for num_queries in options.queries:
        with tempfile.TemporaryDirectory() as store:
            for what in ("make", "measure"):
                command = [sys.executable, __file__, what, *sys.argv[2:], "--queries", str(num_queries), "--store", store]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        print(f"| {num_queries:,} | {result['mib']:.0f} | {result['seconds']:.1f} |", flush=True)


def make(options: argparse.Namespace) -> None:
    (step,) = Planner().plan(recipe_of(options, options.store, job="prepare_corpora"))
    run_plan([step], Progress(quiet=True))
    payload = {"kind": "corpora", "queries": options.queries[0]}
    target = Output(StoreAddress(options.store), f"corpora/{TASKS[options.task].corpus}@many", payload)
    multiply_queries(step.output, target, options.queries[0])
    run_plan(Planner().plan(many(options), "embed"), Progress(quiet=True))


def measure(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    run_plan(Planner().plan(many(options)), Progress(quiet=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"mib": peak, "seconds": time.perf_counter() - began}))


def many(options: argparse.Namespace) -> Recipe:
    return recipe_of(options, options.store, source=None, corpus_version="many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ray", "memory", "make", "measure"], help="`make` and `measure` are the halves of `memory`")
    parser.add_argument("--source", help="the corpus in its original format; left out: the embedded one")
    parser.add_argument("--task", default="biorelex")
    parser.add_argument("--reranker", default="offline:all-minilm-l6-v2", help="a cross-encoder; the default has an untrained head")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents-per-shard", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--queries", type=int, nargs="+", default=[500, 5_000])
    parser.add_argument("--store", help="of `make` and `measure`")
    options = parser.parse_args()
    set_environment()
    logging.disable(logging.WARNING)
    {"ray": bench_ray, "memory": bench_memory, "make": make, "measure": measure}[options.what](options)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Answers by the library's engine against the plain loop: speed at equal output, share of the model's forward, memory.

    scripts/bench_generation.py                                              all parts with SmolLM2 on two threads
    scripts/bench_generation.py speed --model offline:gemma3-270m --documents 16 --pairs 4
    scripts/bench_generation.py speed forward --random-weights llama-3.2-1b --dtype bfloat16 --batch-size 64 --documents 256     on a GPU

The loop is what the method's authors run: `generate` of transformers, one prompt at a time. Both sides have the same weights, dtype,
threads, prompts and greedy choice, and stop at the bracket that closes a complete list; whether they said the same is counted.
`speed` times groups of documents on one side and then on the other, each time beginning with another one; intervals are bootstrap
intervals over these pairs. `forward` is the share of the engine's wall time that is spent inside the model. `memory` makes the
prompts and answers of N and of 4 N documents by the job itself, each in a process of its own.

Prompts are made from the embedded corpora. `fers` has the same examples for every query, so a batch shares most of its prompts;
`ders` draws them for each query, so it shares the instruction only, as with examples that are the nearest.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_generation_sides import ARCHITECTURES, SEED, Library, Loop, Prompts, Side, save_random
from bench_jobs import multiply_queries
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.generation import ModelSettings
from bioie_ray.config.recipe import Recipe
from bioie_ray.corpora.tasks import TASKS, get_task
from bioie_ray.generation.base import Sampling
from bioie_ray.pipeline.job import set_environment
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.run import run_plan
from bioie_ray.prompting.tokenizer import load_tokenizer
from bioie_ray.retrieval.models import resolve_model

PARTS = ("speed", "forward", "memory")


def conditions(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [(method, num) for num in options.examples for method in (("fers", "ders") if num else ("zero-shot",))]


def bench_speed(options: argparse.Namespace) -> None:
    settings, sampling, task = model_settings(options), model_sampling(options), get_task(options.task)
    prompts = Prompts(task, settings)
    loop, library = Loop(settings, sampling, task.kind), Library(settings, sampling)
    columns = (
        "examples | prompt tokens | loop, documents/s | library, documents/s | ratio, documents/s | ratio, tokens/s | same, processor time"
    )
    print(f"{what(options)}\n\n| {columns} | answer tokens a document | identical answers |\n|---{'|--:' * 8}|", flush=True)
    for method, num_examples in conditions(options):
        groups = prompts.groups(method, num_examples, options.documents, options.pairs)
        loop(groups[0][:1]), library(groups[0][:2])  # the first call of each pays for allocations and lazy loading
        slow, fast = Side(loop), Side(library)
        num_same = 0
        for turn, group in enumerate(groups):
            sides = (slow, fast) if turn % 2 == 0 else (fast, slow)
            one, other = [side.run(group) for side in sides]
            num_same += sum(one[request.id] == other[request.id] for request in group)
            print(f"{method} {num_examples}, pair {turn + 1}: {slow.wall_s[-1]:.1f} s, {fast.wall_s[-1]:.1f} s", file=sys.stderr)
        sizes = np.array([len(group) for group in groups])
        num_prompt = np.mean([len(load_tokenizer(settings.model).encode(str(r.text))) for group in groups for r in group])
        rates = [sizes.sum() / sum(side.wall_s) for side in (slow, fast)]
        print(
            f"| {f'{method}, {num_examples}' if num_examples else method} | {num_prompt:.0f} | {rates[0]:.2f} | {rates[1]:.2f} "
            f"| {ratio(sizes, slow.wall_s, sizes, fast.wall_s)} | {ratio(slow.num_tokens, slow.wall_s, fast.num_tokens, fast.wall_s)} "
            f"| {ratio(sizes, slow.cpu_s, sizes, fast.cpu_s)} | {sum(fast.num_tokens) / sizes.sum():.0f} | {num_same} of {sizes.sum()} |",
            flush=True,
        )


def ratio(done_slow: Sequence[int], slow: Sequence[float], done_fast: Sequence[int], fast: Sequence[float]) -> str:
    """How many times more a second the fast side gets done, with a 95 % bootstrap interval over the pairs."""
    rows = np.array([done_slow, slow, done_fast, fast], dtype=float)
    draws = np.random.default_rng(SEED).integers(rows.shape[1], size=(10_000, rows.shape[1]))

    def of(sums: Any) -> Any:
        return (sums[2] / sums[3]) / (sums[0] / sums[1])

    low, high = np.percentile(of(rows[:, draws].sum(axis=2)), [2.5, 97.5])
    return f"{of(rows.sum(axis=1)):.2f} [{low:.2f}, {high:.2f}]"


def bench_forward(options: argparse.Namespace) -> None:
    settings, sampling, task = model_settings(options), model_sampling(options), get_task(options.task)
    prompts, library = Prompts(task, settings), Library(settings, sampling)
    kind = type(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve_model(settings.model))))
    print(f"{what(options)}\n\n| examples | inside the model's forward | calls | seconds |\n|---|--:|--:|--:|", flush=True)
    for method, num_examples in conditions(options):
        (group,) = prompts.groups(method, num_examples, options.documents, 1)
        library(group[:2])
        with timed_forward(kind) as spent:
            began = time.perf_counter()
            library(group)
            wall = time.perf_counter() - began
        name = f"{method}, {num_examples}" if num_examples else method
        print(f"| {name} | {sum(spent) / wall:.1%} | {len(spent)} | {wall:.1f} |", flush=True)


@contextmanager
def timed_forward(kind: Any) -> Iterator[list[float]]:
    """The seconds of every call of a model class's ``forward``, to the end of what it started on a GPU."""
    spent: list[float] = []
    forward = kind.forward

    @functools.wraps(forward)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = forward(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
        return result

    kind.forward = timed
    try:
        yield spent
    finally:
        kind.forward = forward


def bench_memory(options: argparse.Namespace) -> None:
    print(f"{what(options)}\n\n| documents | peak memory, MiB | of the GPU, MiB | seconds |\n|--:|--:|--:|--:|", flush=True)
    for num in (options.memory_documents, 4 * options.memory_documents):
        with tempfile.TemporaryDirectory() as store:
            for part in ("_make", "_measure"):
                command = [sys.executable, __file__, part, *sys.argv[1:], "--memory-documents", str(num), "--store", store]
                command += ["--weights", options.model] if options.random_weights else []
                done = subprocess.run([word for word in command if word not in PARTS], capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"| {num:,} | {found['mib']:.0f} | {found['gpu_mib']:.0f} | {found['seconds']:.0f} |", flush=True)


def make(options: argparse.Namespace) -> None:
    (step,) = Planner().plan(memory_recipe(options, job="prepare_corpora"))
    run_plan([step], Progress(quiet=True))
    payload = {"kind": "corpora", "queries": options.memory_documents}
    target = Output(StoreAddress(options.store), f"corpora/{TASKS[options.task].corpus}@many", payload)
    multiply_queries(step.output, target, options.memory_documents)


def measure(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    run_plan(Planner().plan(memory_recipe(options, corpus_version="many")), Progress(quiet=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    print(json.dumps({"mib": peak, "gpu_mib": gpu, "seconds": time.perf_counter() - began}))


def memory_recipe(options: argparse.Namespace, **changes: Any) -> Recipe:
    generate = {**model_settings(options).model_dump(), "temperature": 0.0, "max_new_tokens": min(16, options.max_new_tokens)}
    data = {"name": "bench", "job": "generate", "store": options.store, "task": options.task, "generate": generate}
    data |= {"select": {"method": "fers", "rerank": False, "queries": "test"}, "prompt": {"num_examples": 3}}
    return Recipe.model_validate({**data, "cluster": {"executor": "inline"}, **changes})


def model_settings(options: argparse.Namespace) -> ModelSettings:
    return ModelSettings(
        model=options.model,
        dtype=options.dtype,
        threads=options.threads,
        batch_size=options.batch_size,
        batch_tokens=options.batch_tokens,
    )


def model_sampling(options: argparse.Namespace) -> Sampling:
    return Sampling(temperature=0.0, top_p=1.0, max_new_tokens=options.max_new_tokens, stop_at=get_task(options.task).kind)


def what(options: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{options.threads} CPU threads"
    model = f"{options.random_weights} with random weights" if options.random_weights else options.model.removeprefix("offline:")
    return (
        f"\n{model}, {options.dtype}, {options.task}, groups of {options.documents} documents, at most {options.max_new_tokens} new tokens, "
        f"batches of {options.batch_size}, {device}, torch {torch.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; left out: all")
    parser.add_argument("--model", default=ModelSettings().model)
    parser.add_argument("--task", default="biorelex", help="of an embedded corpus: biorelex has sentences, bc5cdr_disease abstracts")
    parser.add_argument("--documents", type=int, default=16, help="in a group")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 3, 5])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=ModelSettings().batch_size)
    parser.add_argument("--batch-tokens", type=int, default=ModelSettings().batch_tokens)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-documents", type=int, default=256, help="N; 4 N is measured too")
    parser.add_argument(
        "--random-weights", help=f"{', '.join(ARCHITECTURES)}, or a folder or file with a model's config.json; --model lends the tokenizer"
    )
    parser.add_argument("--weights", help=argparse.SUPPRESS)  # the folder of random weights, for the halves of `memory`
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    halves: dict[str, Callable[[argparse.Namespace], None]] = {"_make": make, "_measure": measure}
    parts = {"speed": bench_speed, "forward": bench_forward, "memory": bench_memory}
    unknown = sorted(set(options.parts) - parts.keys() - halves.keys())
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    set_environment()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        if options.weights:
            options.model = options.weights
        elif options.random_weights:
            options.model = str(save_random(options.random_weights, options.model, Path(folder), options.dtype))
        for part in options.parts or PARTS:
            {**parts, **halves}[part](options)


if __name__ == "__main__":
    main()

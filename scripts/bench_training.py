#!/usr/bin/env python
"""Training against TRL's own trainers: speed at equal model, data, rate and batch; Ray's share; one rank against two; peak memory.

    scripts/bench_training.py sft                        PreFt against `trl sft`, and against the authors' settings
    scripts/bench_training.py dpo                        a DPOP step against a step of `trl dpo`
    scripts/bench_training.py ray                        the same training in one process, under Ray, and on two ranks
    scripts/bench_training.py sft --model offline:gemma3-270m --pairs 3 --steps 4

Each side is a process of its own and is timed from the end of its first step; sides take turns, each time beginning with another one.
Ratios are of tokens trained a second (prompts and answers, no padding), with bootstrap intervals over the turns. TRL's side is its trainer as
the command sets it up, with the loss on answers only, like ours. The authors' settings are a batch of 1 with 8 accumulated, padded, eager
attention and gradient checkpointing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_generation import ratio

from bioie_ray.config.recipe import Recipe
from bioie_ray.pipeline.job import set_environment
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.run import run_plan

SIDES = Path(__file__).with_name("bench_training_sides.py")
LORA = {"r": 16, "alpha": 32, "dropout": 0.0}


def records(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Conversations of the embedded corpora (or of ``--source``), made by the job itself."""
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "job": "prepare_instructions",
            "store": str(folder),
            "source": options.source,
            "task": options.task,
            "instructions": {
                "sources": [{"kind": "tasks", "tasks": [options.task], "phrasings": options.phrasings}],
                "near_duplicates": None,
            },
            "train": {"base_model": options.model},
            "cluster": {"executor": "inline"},
        }
    )
    steps = Planner().plan(recipe)
    run_plan(steps, Progress(verbose=False))
    output = steps[-1].output
    rows = [row for shard in output.shards() for row in output.read_shard(shard, ["id", "messages"]).to_pylist()]
    return [row for row in rows if len(row["messages"]) < options.max_chars]


def pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each conversation's answer against the answer of the next one that differs."""
    made = []
    for number, row in enumerate(rows):
        turns = json.loads(row["messages"])
        others = (json.loads(rows[(number + n) % len(rows)]["messages"])[-1]["content"] for n in range(1, len(rows)))
        other = next((text for text in others if text != turns[-1]["content"]), None)
        if other is not None:
            made.append({"id": row["id"], "messages": json.dumps(turns[:-1]), "chosen": turns[-1]["content"], "rejected": other})
    return made


def run(side: str, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    done = subprocess.run([sys.executable, str(SIDES), side, str(path)], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def compare(name: str, sides: dict[str, tuple[str, dict[str, Any]]], options: argparse.Namespace, folder: Path) -> None:
    """Turns of all sides, then a row for each side against the first."""
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in sides}
    labels = list(sides)
    for turn in range(options.pairs):
        for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
            found[label].append(run(*sides[label], folder))
            one = found[label][-1]
            print(f"{name}, turn {turn + 1}, {label}: {one['tokens'] / one['wall_s']:.0f} tokens/s", file=sys.stderr, flush=True)
    first = labels[0]
    print(
        f"\n{name}\n\n| side | tokens/s | ours against it, wall | processor time | first loss | last losses | peak MiB |\n|---{'|--:' * 6}|"
    )
    for label, results in found.items():
        tokens, wall, cpu = ([one[key] for one in results] for key in ("tokens", "wall_s", "cpu_s"))
        own = [[one[key] for one in found[first]] for key in ("tokens", "wall_s", "cpu_s")]
        wide = "" if label == first else ratio(tokens, wall, own[0], own[1])
        narrow = "" if label == first else ratio(tokens, cpu, own[0], own[2])
        curve = results[0]["losses"]
        print(
            f"| {label} | {sum(tokens) / sum(wall):.0f} | {wide} | {narrow} | {curve[0]:.3f} | {np.mean(curve[-3:]):.3f} "
            f"| {max(one['peak_mib'] for one in results):.0f} |",
            flush=True,
        )


def plan_of(options: argparse.Namespace, rows: list[dict[str, Any]], stage: str, **changes: Any) -> dict[str, Any]:
    settings = {
        "batch_size": 8,
        "micro_batch_size": options.micro,
        "learning_rate": options.rate,
        "schedule": "constant",
        "max_steps": options.steps,
    }
    settings |= {"max_length": options.max_length, "epochs": 100, "max_grad_norm": 1.0}
    if stage == "dpop":
        settings |= {"max_prompt_tokens": options.max_length - 1}
    plan = {"stage": stage, "model": options.model, "threads": options.threads, "settings": settings, "lora": LORA, "records": rows}
    return {**plan, "trl_micro": options.micro, "trl_steps": options.steps, "trl_checkpointing": False, "attention": "auto", **changes}


def bench_sft(options: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> None:
    whole = plan_of(options, rows, "preft")
    packed = {**whole, "settings": {**whole["settings"], "batch_size": options.packed_batch, "micro_batch_size": 1}}
    padded = {**whole, "settings": {**whole["settings"], "packing": False}}
    authors = {**whole, "trl_micro": 1, "trl_checkpointing": True, "attention": "eager"}
    compare(
        "SFT",
        {
            "ours, packed": ("ours", packed),
            "ours, padded": ("ours", padded),
            "trl sft": ("trl", whole),
            "authors' settings": ("trl", authors),
        },
        options,
        folder,
    )


def bench_dpo(options: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> None:
    plan = plan_of(options, pairs(rows), "dpop")
    compare("DPO", {"ours (DPOP, reference computed before)": ("ours", plan), "trl dpo": ("trl", plan)}, options, folder)


def bench_ray(options: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> None:
    plan = plan_of(options, rows, "preft")
    sides = {
        "one process": {"executor": "inline"},
        "Ray, one rank": {"ranks": 1},
        "Ray, two ranks of half the threads": {"ranks": 2},
    }
    print("\nRay\n\n| how | tokens/s, each turn | against one process | last loss |\n|---|--:|--:|--:|")
    rates: dict[str, list[float]] = {label: [] for label in sides}
    last: dict[str, float] = {}
    for turn in range(options.pairs):
        labels = list(sides)
        for label in labels[turn % 3 :] + labels[: turn % 3]:
            threads = max(1, options.threads // sides[label].get("ranks", 1))
            found = run("job", {**plan, "cluster": sides[label], "threads": threads}, folder)
            rates[label].append(found["tokens_per_s"])
            last[label] = found["losses"][-1]
            print(f"turn {turn + 1}, {label}: {found['tokens_per_s']:.0f} tokens/s", file=sys.stderr, flush=True)
    base = np.array(rates["one process"])
    for label, own in rates.items():
        print(
            f"| {label} | {', '.join(f'{rate:.0f}' for rate in own)} | {np.mean(np.array(own) / base):.2f} | {last[label]:.4f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("sft", "dpo", "ray"))
    parser.add_argument("--model", default="offline:smollm2-135m-instruct")
    parser.add_argument("--source", help="folder of corpora; left out: the embedded ones")
    parser.add_argument("--task", default="biorelex")
    parser.add_argument("--phrasings", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--packed-batch", type=int, default=2, help="packed sequences of a step, so that it has about as many tokens")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--max-chars", type=int, default=1_500, help="longer conversations are left out of all sides")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    set_environment()
    with tempfile.TemporaryDirectory() as folder:
        rows = records(options, Path(folder) / "data")
        print(
            f"{options.model}, float32, LoRA r {LORA['r']}, {len(rows)} conversations of {options.task}, {options.threads} threads",
            flush=True,
        )
        for part in options.parts:
            {"sft": bench_sft, "dpo": bench_dpo, "ray": bench_ray}[part](options, rows, Path(folder))


if __name__ == "__main__":
    main()

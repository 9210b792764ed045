"""A store with trained stages and preference pairs, written as the steps write them, without any training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
from pipeline_builders import make_recipe

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.record import Provenance, Timings, make_record, now
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.pipeline.preferences import PREFERENCE_SCHEMA

TRACE = pa.schema([("step", pa.int32()), ("metric", pa.string()), ("value", pa.float64())])


def write_output(folder: Path, key: str, shard: str, table: pa.Table, extra: dict[str, Any], **settings: Any) -> Output:
    recipe = make_recipe(folder, job="train_dpop", **settings)
    output = Output(StoreAddress(str(folder / "store")), key, {"kind": key.partition("/")[0], "seed": recipe.seed})
    output.claim()
    output.commit(shard, table, {})
    provenance = Provenance(recipe=recipe.model_dump(mode="json", exclude={"matrix"}), inputs=[], seeds={"recipe": recipe.seed})
    output.finish(make_record(output, list(output.markers().values()), provenance, Timings(now(), now(), 1, 0), extra))
    return output


def losses(stage: str, seed: int, num_steps: int) -> dict[str, list[float]]:
    found = {
        "loss": [math.exp(-step / 10) + 0.01 * seed for step in range(num_steps)],
        "num_tokens": [100.0 * (s + 1) for s in range(num_steps)],
    }
    if stage == "dpop":
        found |= {
            "rewards/margins": [0.01 * step - 0.02 for step in range(num_steps)],
            "rewards/accuracies": [min(1.0, step / 8) for step in range(num_steps)],
            "logratios/chosen": [-0.001 * step for step in range(num_steps)],
        }
    return found


def write_stage(folder: Path, stage: str, name: str = "r", *, seed: int = 0, num_steps: int = 9, best: bool = False, **told: Any) -> Output:
    rows = [
        {"step": step, "metric": metric, "value": value}
        for metric, values in losses(stage, seed, num_steps).items()
        for step, value in enumerate(values, start=1)
    ]
    extra: dict[str, Any] = {"stage": stage, "base_model": "offline:some", "ranks": 2, "steps": num_steps, "records": 31, "sequences": 11}
    extra["merged"] = {"largest_difference": 2.5e-6, "tolerance": 1e-4, "rounding": 0.0}
    if best:
        rows += [{"step": step, "metric": "dev_f1", "value": value} for step, value in ((4, 0.25), (8, 0.125))]
        extra["best"] = {"step": 4, "dev_f1": 0.25}
    extra |= told
    section = {"learning_rate": 3e-4, "lora": {"r": 12, "alpha": 5}}
    table = pa.Table.from_pylist(rows, schema=TRACE)
    return write_output(folder, f"models-{stage}/{name}@1", "training", table, extra, seed=seed, **{stage: section})


def pair(number: int, made_by: str, kind: str, prompt: str = "List <b>all</b>.", rejected: str = "[]") -> dict[str, Any]:
    messages = json.dumps([{"role": "user", "content": prompt}])
    told = {"id": f"t/{number}", "source": "tasks:t", "messages": messages, "chosen": f'["gold {number}"]', "rejected": rejected}
    return {**told, "kind": kind, "made_by": made_by, "f1": None if made_by == "given" else 0.25}


def write_preferences(folder: Path, pairs: list[dict[str, Any]], mix: dict[str, int], **totals: int) -> Output:
    extra = {"mix": mix, "totals": {"read": len(pairs), "pairs": len(pairs), "no_wrong_answer": 0, "quarantined": 0, **totals}}
    return write_output(folder, "preferences/r@1", "train-00000", pa.Table.from_pylist(pairs, schema=PREFERENCE_SCHEMA), extra)

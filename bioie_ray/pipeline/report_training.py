"""The report's training stages and preference pairs, read from their records, traces and first shards."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from bioie_ray.artifacts.output import Output
from bioie_ray.evaluation.training_results import MixCount, PairView, PreferencesSummary, StageSummary
from bioie_ray.training.starts import told as told_starts

_SAMPLES: Final = 6
_PROMPT_CHARS: Final = 1_200
_ANSWER_CHARS: Final = 1_200


def stage_summary(source: str, output: Output, record: Mapping[str, Any]) -> StageSummary:
    """How a training stage went."""
    trace: dict[str, list[tuple[int, float]]] = {}
    for row in output.read_shard("training").to_pylist():
        if math.isfinite(row["value"]):  # a gradient's norm may be none, and is left out
            trace.setdefault(row["metric"], []).append((int(row["step"]), float(row["value"])))
    return StageSummary(
        source=source,
        stage=str(record["stage"]),
        seed=int(record["seeds"]["recipe"]),
        settings=stage_settings(record),
        numbers=stage_numbers(record) | _tokens(trace),
        trace={metric: tuple(points) for metric, points in trace.items()},
    )


def stage_settings(record: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that people compare, by the names they have on the page."""
    own, train = record["recipe"][record["stage"]], record["recipe"]["train"]
    lora = own["lora"]
    told = {
        "started from": str(record["base_model"]),
        "method": str(own["method"]),
        "adapter": f"r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']:g}" if own["method"] != "full" else "none",
        "learning rate": f"{own['learning_rate']:g}, {own['schedule'].replace('_', ' ')}",
        "epochs": f"{own['epochs']:g}" + (f", at most {own['max_steps']:,} steps" if own["max_steps"] else ""),
        "batch size": f"{own['batch_size']:,}",
        "max. length": f"{own['max_length']:,} tokens" + (", packed" if own["packing"] else ""),
    }
    if record["stage"] == "dpop":
        told["beta, penalty"] = f"{own['beta']:g}, {own['penalty']:g}"
        told |= {"label smoothing": f"{own['label_smoothing']:g}"} if own["label_smoothing"] else {}
    return told | {"precision": str(train["dtype"]), "seed": str(record["seeds"]["recipe"])}


def stage_numbers(record: Mapping[str, Any]) -> dict[str, str]:
    """What a run of a stage came to."""
    told = {
        "steps": f"{record['steps']:,}",
        "records": f"{record['records']:,}"
        + (f" of {there:,}" if (there := record.get("of", record)["records"]) != record["records"] else ""),
        "sequences": f"{record['sequences']:,}",
        "ranks": told_starts(record.get("starts") or [{"step": 0, "ranks": record["ranks"]}]),
        "time": f"{record['timings']['wall_s']:,.0f} s",
    }
    if best := record.get("best"):
        told["best by dev F1"] = f"{best['dev_f1']:.1%} at step {best['step']:,}"
    if merged := record.get("merged"):
        told["merged model"] = f"differs by {merged['largest_difference']:.1e} (at most {merged['tolerance']:.0e})"
        told["merged model"] += f", rounded by {merged['rounding']:.1e}" if merged.get("rounding") else ""
    return told


def _tokens(trace: Mapping[str, list[tuple[int, float]]]) -> dict[str, str]:
    """Tokens that went through the model, of all epochs."""
    return {"tokens": f"{trace['num_tokens'][-1][1]:,.0f}"} if trace.get("num_tokens") else {}


def preferences_summary(source: str, output: Output, record: Mapping[str, Any]) -> PreferencesSummary:
    """What an output of ``make_preferences`` holds."""
    totals = record["totals"]
    return PreferencesSummary(
        source=source,
        num_read=int(totals["read"]),
        num_pairs=int(totals["pairs"]),
        num_without=int(totals["no_wrong_answer"]),
        num_quarantined=int(totals["quarantined"]),
        mix=mix_counts(record),
        samples=_samples(output),
    )


def mix_counts(record: Mapping[str, Any]) -> tuple[MixCount, ...]:
    """The mix of a record, most pairs first."""
    counts = Counter({tuple(key.partition(" ")[::2]): int(number) for key, number in record["mix"].items()})
    return tuple(MixCount(made_by, kind, number) for (made_by, kind), number in counts.most_common())


def _samples(output: Output) -> tuple[PairView, ...]:
    """The first pair of each kind and maker in the first shard; made pairs lie in a drawn order."""
    found: dict[tuple[str, str], PairView] = {}
    for row in output.read_shard(output.shards()[0]).to_pylist():
        which = (row["made_by"], row["kind"])
        if which not in found and len(found) < _SAMPLES:
            prompt = json.loads(row["messages"])[-1]["content"]
            answers = (_shortened(row[side], _ANSWER_CHARS) for side in ("chosen", "rejected"))
            found[which] = PairView(row["id"], *which, row["f1"], _shortened(prompt, _PROMPT_CHARS), *answers)
    return tuple(view for _, view in sorted(found.items()))


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"

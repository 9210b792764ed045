"""``bioie show``: an output's record, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bioie_ray.pipeline.locate import locate
from bioie_ray.pipeline.show_scores import score_table
from bioie_ray.pipeline.show_training import TRAINED, training_tables


def show_output(place: str, *, as_json: bool, endpoint: str | None = None) -> None:
    """Print the record.

    Raises:
        ValueError: no output there, or one that is not finished.
    """
    output = locate(place, endpoint)
    record = output.record()
    if as_json:
        print(json.dumps(record, ensure_ascii=False, indent=1))
        return
    console = Console(highlight=False)
    console.print(f"{record['kind']} {record['name']}@{record['version']}", style="bold", markup=False)
    for table in _tables(record):
        console.print(table)


def _tables(record: Mapping[str, Any]) -> list[Table]:
    tables = training_tables(record)
    if record["kind"] == "scores":
        tables.append(score_table(record))
    if "splits" in record:
        columns = list(next(iter(record["splits"].values())))
        splits = Table("split", *columns, box=None, padding=(0, 2, 0, 0))
        for split, counts in record["splits"].items():
            splits.add_row(split, *(f"{counts[column]:,}" for column in columns))
        tables.append(splits)
    elif record["kind"] not in TRAINED:
        counts = Table("count", "")
        for name, value in {**record["counts"], **_selection_counts(record)}.items():
            counts.add_row(name, f"{value:,}")
        tables.append(counts)
    if record["kind"] in ("records", "instructions"):
        tables.append(_sources_table(record["sources"]))
    code, timings = record["code"], record["timings"]
    facts = {
        "fingerprint": record["fingerprint"][:16],
        "made by": f"bioie-ray {code['version']}, revision {code['revision'] or 'unknown'}{' with changes' if code['dirty'] else ''}",
        "image": record["image"] or "none",
        "recipe": record["recipe"]["name"],
        **({"model": record["model"]} if "model" in record else {}),
        "seeds": ", ".join(f"{name} {seed}" for name, seed in record["seeds"].items()),
        "from": "\n".join(f"{i['output']} ({i['fingerprint'][:12]})" for i in record["inputs"]) or "its source",
        "finished": f"{timings['finished']} after {timings['wall_s']} s",
        "used": _usage(record.get("usage", {})),
        "shards": f"{len(record['shards'])} ({timings['shards_made']} made by the last run)",
    }
    provenance = Table(show_header=False)
    for name, value in facts.items():
        provenance.add_row(name, str(value))
    return [*tables, provenance]


def _sources_table(sources: Sequence[Mapping[str, Any]]) -> Table:
    """Sources of instruction data, with the counts that are not 0 for all of them."""
    columns = [name for name in sources[0] if name not in ("kind", "what", "records") and any(source[name] for source in sources)]
    table = Table("source", *(column.replace("_", " ") for column in columns), box=None, padding=(0, 2, 0, 0))
    for source in sources:
        table.add_row(f"{source['kind']}: {source['what']}", *(f"{source[column]:,}" for column in columns))
    return table


def _selection_counts(record: Mapping[str, Any]) -> dict[str, int]:
    """What a selection left out; how many queries there are is among the counts already."""
    return {name: n for name, n in record.get("queries", {}).items() if name.startswith("excluded")}


def _usage(usage: Mapping[str, Any]) -> str:
    """What the run had used, in one line: ``cpu: 340 pod-s, 1,360 CPU-s, up to 2,110 MiB; 1 attempt``."""
    if not usage:
        return "not recorded"
    parts = []
    for name, group in usage["groups"].items():
        gpus = f", {group['gpu_seconds']:,.0f} GPU-s" if group["gpu_seconds"] else ""
        peak = f", up to {group['peak_memory_mib']:,.0f} MiB" if group["peak_memory_mib"] else ""
        parts.append(f"{name}: {group['pod_seconds']:,.0f} pod-s, {group['cpu_seconds_reserved']:,.0f} CPU-s{gpus}{peak}")
    retries = usage["retries"]
    if retries["worker_deaths"] or retries["lost_nodes"]:
        parts.append(f"begun again after {retries['worker_deaths']} dead workers and {retries['lost_nodes']} lost nodes")
    attempts = usage["attempts"]
    return "; ".join([*parts, f"{attempts} attempt{'s' if attempts > 1 else ''}"])

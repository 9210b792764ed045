"""The record beside every output: what made it, from what, where, and how long it took."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bioie_ray
from bioie_ray.artifacts.output import Marker, Output


@dataclass(frozen=True, slots=True)
class Timings:
    """When the finishing run worked on the output. A resumed output's earlier runs are not in it."""

    started: datetime
    finished: datetime
    shards_made: int
    shards_kept: int

    def to_json(self) -> dict[str, Any]:
        """ISO times in UTC, and seconds."""
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "finished": self.finished.isoformat(timespec="seconds"),
            "wall_s": round((self.finished - self.started).total_seconds(), 3),
            "shards_made": self.shards_made,
            "shards_kept": self.shards_kept,
        }


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a step knows of its output beside the shards."""

    recipe: Mapping[str, Any]
    inputs: Sequence[Mapping[str, str]]
    seeds: Mapping[str, int] = field(default_factory=dict)


def make_record(
    output: Output,
    markers: Sequence[Marker],
    provenance: Provenance,
    timings: Timings,
    extra: Mapping[str, Any],
    usage: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a finished output; ``extra`` holds what only this kind of output has (splits, files, scores).

    ``usage`` is what the run had used when the output was finished: recorded, never fingerprinted, and shared by the outputs of one run.
    """
    name, _, version = output.key.rpartition("/")[2].partition("@")
    return {
        "kind": output.payload["kind"],
        "name": name,
        "version": version,
        "fingerprint": output.fingerprint,
        "payload": output.payload,
        "recipe": provenance.recipe,
        "inputs": list(provenance.inputs),
        "seeds": dict(provenance.seeds),
        "code": code_version(),
        "image": os.environ.get("BIOIE_IMAGE"),
        "machine": machine(),
        "counts": total_counts(markers),
        "timings": timings.to_json(),
        "usage": dict(usage or {}),
        "shards": [
            {"shard": m.shard, "rows": m.rows, "bytes": m.bytes, "sha256": m.sha256, "counts": dict(m.counts)}
            for m in sorted(markers, key=lambda m: m.shard)
        ],
        **extra,
        "exit": 0,
    }


def total_counts(markers: Sequence[Marker]) -> dict[str, int]:
    """Sums of the shards' counts, and the number of rows."""
    totals: Counter[str] = Counter({"rows": 0})
    for marker in markers:
        totals.update(marker.counts)
        totals["rows"] += marker.rows
    return dict(sorted(totals.items()))


def sum_of(markers: Mapping[str, Marker], count: str) -> int:
    """One count over all shards; a shard without it has none of what is counted."""
    return sum(marker.counts.get(count, 0) for marker in markers.values())


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def code_version() -> dict[str, Any]:
    """Version of the package, and the git revision where it runs from a checkout (``BIOIE_REVISION`` in an image)."""
    revision = os.environ.get("BIOIE_REVISION")
    dirty = None
    checkout = Path(__file__).resolve().parents[2]
    if revision is None and (checkout / ".git").exists():
        revision = _git(checkout, "rev-parse", "HEAD")
        status = _git(checkout, "status", "--porcelain")
        dirty = None if status is None else bool(status)
    return {"package": "bioie-ray", "version": bioie_ray.__version__, "revision": revision, "dirty": dirty}


def machine() -> dict[str, Any]:
    """What kind of machine finished the output; no host name and no path, so a record can be shown to anybody."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def input_key(record: Mapping[str, Any], kind: str) -> str:
    """The key of the first input of a kind that a record names; there is one."""
    return next(str(made_from["output"]) for made_from in record["inputs"] if made_from["output"].startswith(f"{kind}/"))

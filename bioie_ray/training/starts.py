"""From which step on how many ranks did a training: it lies in every checkpoint, for the record and for whoever compares two models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = "starts.json"
Starts = Sequence[Mapping[str, int]]


def starts(num_ranks: int, resume: Path | None = None, step: int = 0, made_by: int = 0) -> Starts:
    """What the checkpoint that is gone on from says of the starts before, and this one where the number is another.

    A start with the same number is none of them: it gives the bytes that a training without it gives, and its record has to be the same.

    Args:
        num_ranks: of this start.
        resume: folder of the checkpoint.
        step: of the checkpoint.
        made_by: ranks that made it, where it has no such file.
    """
    before: list[Mapping[str, int]] = []
    if resume is not None:
        file = resume / FILE
        before = json.loads(file.read_bytes()) if file.is_file() else [{"step": 0, "ranks": made_by}]
    if before and before[-1]["ranks"] == num_ranks:
        return before
    return [*before, {"step": step, "ranks": num_ranks}]


def told(found: Starts) -> str:
    """For people: ``2, from step 40 on 1``."""
    first, *others = found
    return ", ".join([f"{first['ranks']:,}", *(f"from step {one['step']:,} on {one['ranks']:,}" for one in others)])

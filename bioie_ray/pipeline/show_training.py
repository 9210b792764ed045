"""What ``bioie show`` prints of a training stage and of preference pairs, beside what it prints of every output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bioie_ray.config.training import STAGES
from bioie_ray.pipeline.report_training import mix_counts, stage_numbers, stage_settings

TRAINED = tuple(f"models-{stage}" for stage in STAGES)


def training_tables(record: Mapping[str, Any]) -> list[Table]:
    """Tables of a record's own: none for an output that is no part of training."""
    kind = str(record["kind"])
    if kind in TRAINED:
        table = Table("training", "", box=None, padding=(0, 2, 0, 0))
        for name, value in {**stage_settings(record), **stage_numbers(record)}.items():
            table.add_row(name, value)
        return [table]
    if kind == "preferences":
        totals = record["totals"]
        table = Table("wrong answer", "by", "pairs", "share", box=None, padding=(0, 2, 0, 0))
        for count in mix_counts(record):
            table.add_row(count.kind or "not judged", count.made_by, f"{count.num_pairs:,}", f"{count.num_pairs / totals['pairs']:.1%}")
        return [table]
    return []

"""One training stage as plain data: what is trained on what, in batches of which size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from bioie_ray.artifacts.output import Output
from bioie_ray.config.training import DpopSettings, SftSettings, StageName, TrainSettings
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.training.scoring import ScoringPlan

_ROWS = "rows.arrow"


class TrainingError(ValueError):
    """A training that cannot go on; the message says at which step and what to change."""


@dataclass(frozen=True)
class Stage:
    """All that a rank needs to know. ``reference`` are the log-probabilities of DPOP's reference model."""

    name: StageName
    settings: SftSettings | DpopSettings
    train: TrainSettings
    base: ModelSource
    tokens: Output
    reference: Output | None
    scoring: ScoringPlan | None
    seed: int
    output: Output


def accumulation(settings: SftSettings | DpopSettings, stage: str, num_ranks: int) -> int:
    """Forward passes of a rank to an optimizer step, so that ``batch_size`` holds however many ranks there are.

    Raises:
        TrainingError: it does not come out even; the message says what would.
    """
    at_once = settings.micro_batch_size * num_ranks
    if settings.batch_size % at_once:
        fitting = at_once * math.ceil(settings.batch_size / at_once)
        raise TrainingError(
            f"{stage}.batch_size is {settings.batch_size}, which {num_ranks} ranks with {stage}.micro_batch_size={settings.micro_batch_size} cannot "
            f"share ({num_ranks} x {settings.micro_batch_size} = {at_once} at once); set {stage}.batch_size={fitting}, or another number of cluster.ranks"
        )
    return settings.batch_size // at_once


def num_steps(settings: SftSettings | DpopSettings, num_rows: int) -> int:
    """Optimizer steps of the whole stage; the batch that the last epoch ends in is filled up (see ``order``)."""
    steps = max(1, math.ceil(num_rows * settings.epochs / settings.batch_size))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def token_rows(tokens: Output, folder: Path, reference: Output | None = None) -> pa.Table:
    """All token rows in their order, with their place as ``row``, and the reference's log-probabilities beside them.

    They are a file in ``folder``, mapped into memory: a rank holds what it looks at, however long the corpus is. It is written shard by shard.

    Raises:
        TrainingError: there is nothing to train on, or the reference is of other pairs.
    """
    file, writer, num_rows = folder / _ROWS, None, 0
    try:
        for shard in tokens.shards():
            table = tokens.read_shard(shard)
            if reference is not None:
                numbers = reference.read_shard(shard)
                if not table["id"].equals(numbers["id"]):
                    raise TrainingError(
                        f"{reference.location} holds the numbers of other pairs than {tokens.location}; make both again under a new version"
                    )
                for name in ("ref_chosen_logps", "ref_rejected_logps"):
                    table = table.append_column(name, numbers[name])
            table = table.append_column("row", pa.array(range(num_rows, num_rows + table.num_rows), pa.int64()))
            writer = writer or pa.ipc.new_file(str(file), table.schema)
            writer.write_table(table)
            num_rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if not num_rows:
        raise TrainingError(f"{tokens.location} holds nothing to train on; see its record for what was left out, and why")
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def ids_of(table: pa.Table, rows: Sequence[int]) -> list[str]:
    """Ids of the records in some rows (a packed row has several), for messages."""
    found: list[str] = []
    for value in table["id"].take(pa.array(rows)).to_pylist():
        found += value if isinstance(value, list) else [value]
    return found

"""How a training that ends early says what to change, and how one rank's last word reaches all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bioie_ray.artifacts.output import Output
from bioie_ray.retrieval.batching import is_out_of_memory
from bioie_ray.training.stage import Stage, TrainingError

_FAILED = "_failed.txt"


@contextmanager
def telling_what_to_lower(stage: Stage) -> Iterator[None]:
    """Turn running out of memory, a GPU's or the machine's, into advice.

    Raises:
        TrainingError: that happened; the message has the arithmetic.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory(stage, str(error) or type(error).__name__)) from None


def out_of_memory(stage: Stage, reason: str) -> str:
    """The message for people: why, and what to lower."""
    return f"out of memory: {reason.splitlines()[0]} {what_to_lower(stage)}; then run again, it goes on from the last checkpoint"


def what_to_lower(stage: Stage) -> str:
    """Against a lack of memory, with the arithmetic."""
    settings = stage.settings
    pairs = 2 if stage.name == "dpop" else 1
    tokens = settings.micro_batch_size * settings.max_length * pairs
    return (
        f"A forward pass has up to {stage.name}.micro_batch_size={settings.micro_batch_size} x "
        f"{stage.name}.max_length={settings.max_length}{' x 2 answers' if pairs == 2 else ''} = {tokens} tokens. Set {stage.name}.micro_batch_size=1, "
        f"train.gradient_checkpointing=true, {stage.name}.max_length lower, {stage.name}.method=qlora, or train.zero_stage=3 over more ranks "
        "(bioie run RECIPE --dry-run shows an estimate)"
    )


def write_failure(output: Output, told: str) -> None:
    """Write down what would fail again: the ranks that are started next say it instead of training.

    Raises:
        StoreError: the store cannot be written.
    """
    output.store.write(f"{output.key}/{_FAILED}", told.encode())


def failure(output: Output) -> str | None:
    """What was written down in this launch."""
    try:
        return output.store.read(f"{output.key}/{_FAILED}").decode()
    except FileNotFoundError:
        return None


def forget_failure(output: Output) -> None:
    """Of an earlier launch."""
    output.store.delete(f"{output.key}/{_FAILED}")

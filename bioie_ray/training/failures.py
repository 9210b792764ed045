"""How a training that ends early says what to change, and how one rank's last word reaches all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.reasons import first_line
from bioie_ray.retrieval.batching import is_out_of_memory
from bioie_ray.training.stage import Stage, TrainingError

_FAILED = "_failed.txt"
_NO_SPACE = "No space left on device"
_ALMOST_NOTHING = 2**20


@contextmanager
def telling_what_to_lower(stage: Stage) -> Iterator[None]:
    """Turn running out of memory, a GPU's or the machine's, into advice.

    Raises:
        TrainingError: that happened; the message has the arithmetic.
    """
    with _telling(lambda reason: out_of_memory(stage, reason)):
        yield


@contextmanager
def telling_what_merging_needs(stage: Stage) -> Iterator[None]:
    """The same for what comes after the last step, which no size of a batch changes.

    Raises:
        TrainingError: memory ran out.
    """
    with _telling(
        lambda reason: (
            f"out of memory after the last step: {reason} The first rank merges the adapter into {stage.base.ref} in float32, four bytes for each "
            "parameter in the machine's memory, and a little more: give its pod more (cluster.kube.workers.GROUP.memory_gib); then run again, it goes on from "
            "the last checkpoint"
        )
    ):
        yield


@contextmanager
def telling_of_a_full_disk(folder: Path) -> Iterator[None]:
    """Checkpoints and weights are files here before they go to the store.

    Raises:
        TrainingError: nothing more can be written in ``folder``.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or not _is_full(error, folder):  # the family for people has the reason already
            raise
        raise TrainingError(
            f"no space left in {folder.parent}, where checkpoints and weights are written before they go to the store: {first_line(error)}; free some, or set "
            "TMPDIR to a folder on another disk (of a pod: cluster.kube.workers.GROUP.spill_gib higher), then run again, it goes on from the last checkpoint"
        ) from None


def _is_full(error: BaseException, folder: Path) -> bool:
    """Safetensors takes its half of a file away and has an error of its own; torch leaves it there and says that it could not write, not why."""
    causes = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
    if any(getattr(cause, "errno", None) == errno.ENOSPC or _NO_SPACE in str(cause) for cause in causes):
        return True
    return isinstance(error, OSError | RuntimeError) and shutil.disk_usage(folder).free < _ALMOST_NOTHING


@contextmanager
def _telling(advice: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(advice(first_line(error))) from None


def out_of_memory(stage: Stage, reason: str) -> str:
    """The message for people: why, and what to lower."""
    return f"out of memory: {reason} {what_to_lower(stage)}"


def what_to_lower(stage: Stage) -> str:
    """Against a lack of memory, with the arithmetic."""
    settings, train = stage.settings, stage.train
    pairs = 2 if stage.name == "dpop" else 1
    ways = {
        f"{stage.name}.micro_batch_size=1": settings.micro_batch_size > 1,
        "train.gradient_checkpointing=true": not train.gradient_checkpointing,
        f"{stage.name}.max_length lower": True,
        f"{stage.name}.method=qlora": settings.method != "qlora",
        "train.zero_stage=3 over more ranks": train.zero_stage < 3 and train.score_every_steps is None,
    }
    *most, last = [way for way, is_left in ways.items() if is_left]
    set_ = f"{', '.join(most)}, or {last}" if most else last
    tokens = settings.micro_batch_size * settings.max_length * pairs
    return (
        f"A forward pass has up to {stage.name}.micro_batch_size={settings.micro_batch_size} x "
        f"{stage.name}.max_length={settings.max_length}{' x 2 answers' if pairs == 2 else ''} = {tokens} tokens. Set {set_} "
        "(bioie run RECIPE --dry-run shows an estimate). That is another training, which begins anew: give the recipe another version"
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

"""From which checkpoint a training goes on: the newest whole one that every rank can read."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from bioie_ray.training.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from bioie_ray.training.place import Place, agreed, of_all
from bioie_ray.training.stage import Stage, TrainingError
from bioie_ray.training.starts import Starts, starts

_LOG = logging.getLogger(__name__)


def restore(checkpoints: CheckpointStore, folder: Path, place: Place, stage: Stage) -> tuple[Path | None, Starts]:
    """The newest whole checkpoint as a folder here, and the starts up to this one. One of other ranks is taken too where that can be done, and that is said."""
    newest = _fetched(checkpoints, folder, place, stage)
    if newest is None:
        return None, starts(place.num_ranks)
    if newest.num_ranks != place.num_ranks and place.rank == 0:
        _note(
            stage,
            f"going on from step {newest.step}, made by {newest.num_ranks} ranks, with {place.num_ranks}: not the same to the last bit",
        )
    return folder, starts(place.num_ranks, folder, newest.step, newest.num_ranks)


def _fetched(checkpoints: CheckpointStore, folder: Path, place: Place, stage: Stage) -> Checkpoint | None:
    """Bring the newest whole checkpoint that all ranks can read here; those after it are given up, which costs steps and no bytes."""
    unread = ""
    given_up: list[Checkpoint] = []
    for found in agreed(checkpoints.whole()[::-1], place):
        if found.num_ranks != place.num_ranks and stage.train.zero_stage:
            why = f"{unread}; before it, " if unread else ""
            raise TrainingError(
                f"{why}the last checkpoint (step {found.step}) is of {found.num_ranks} ranks, and DeepSpeed's shards of the optimizer fit no other number; "
                f"set cluster.ranks={found.num_ranks}, or delete {stage.output.location}/_checkpoints to begin anew"
            )
        shutil.rmtree(folder, ignore_errors=True)
        mine = ""
        try:
            checkpoints.get(found, folder, place.rank)
        except CheckpointError as error:
            mine = str(error)
        unread = next(filter(None, of_all(mine, place)), "")
        if not unread:
            for damaged in given_up if place.rank == 0 else ():
                if damaged.step != found.step:
                    checkpoints.discard(damaged)  # or it would count among the newest that are kept
            return found
        given_up.append(found)
        if place.rank == 0:
            _note(stage, f"the checkpoint of step {found.step} is given up for an earlier one: {unread}")
    if unread:
        raise TrainingError(
            f"{unread}, and no earlier checkpoint can be read; delete {stage.output.location}/_checkpoints and run again, it begins anew"
        )
    return None


def _note(stage: Stage, told: str) -> None:
    stage.output.note(told)
    _LOG.warning("%s: %s", stage.output.key, told)

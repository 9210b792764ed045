"""Checkpoints of a training in the store: each rank puts its files, then its list of them; only with all lists is one whole.

    _checkpoints/step-00000120/rng_state_0.pth, optimizer.pt, ...   files of rank 0
    _checkpoints/step-00000120/_rank-00000-of-00002-5f1c09ab.json   after them: names, sizes, digests; the last part names the launch

Nothing is written in place and no rank waits for another, so a kill at any moment leaves whole checkpoints and at most one that lacks a
list of its launch, which is never loaded. A thread puts the files away while the training goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bioie_ray.artifacts.files import files_below
from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreError

FOLDER = "_checkpoints"
_LIST = re.compile(r"^_rank-(\d{5})-of-(\d{5})-([0-9a-f]{8})\.json$")
# Files of one rank alone, by name: random numbers, and DeepSpeed's shards of the optimizer.
_OF_RANK = re.compile(r"(?:rng_state_|_pp_rank_|zero_pp_rank_)(\d+)(?:_mp_|\.pth)")


class CheckpointError(ValueError):
    """A checkpoint that was promised cannot be put away or read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint, how many ranks made it, and in which launch of theirs: what two launches put never counts as one."""

    step: int
    num_ranks: int
    launch: str


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one output."""

    output: Output

    def whole(self) -> list[Checkpoint]:
        """The whole ones, oldest first."""
        lists: dict[Checkpoint, set[int]] = {}
        for step, name in self._files():
            match = _LIST.match(name)
            if match:
                lists.setdefault(Checkpoint(step, int(match[2]), match[3]), set()).add(int(match[1]))
        return sorted(
            (found for found, ranks in lists.items() if len(ranks) == found.num_ranks),
            key=lambda found: (found.step, found.num_ranks, found.launch),
        )

    def put(self, folder: Path, checkpoint: Checkpoint, rank: int) -> None:
        """Put one rank's files of a step away, its list last.

        Raises:
            StoreError: no space, no rights, no connection; the checkpoint then does not count.
        """
        files = []
        step = checkpoint.step
        for name in [name for at, name in self._files() if at == step and (found := _LIST.match(name)) and int(found[1]) == rank]:
            self.output.store.delete(f"{self._folder(step)}/{name}")  # of a launch that was killed: its files are replaced now
        for name, path in files_below(folder).items():
            # Not by way of memory: an optimizer's states may be larger than what is left of it.
            self.output.store.write_file(f"{self._folder(step)}/{name}", path)
            files.append({"file": name, "bytes": path.stat().st_size, "sha256": _digest(path)})
        self.output.store.write(_list_of(self._folder(step), checkpoint, rank), json.dumps(files, indent=1).encode())

    def get(self, checkpoint: Checkpoint, folder: Path, rank: int) -> None:
        """Bring the files that a rank needs into a folder: the common ones and its own.

        Raises:
            CheckpointError: a file is not what its list says, or not there.
        """
        try:
            self._get(checkpoint, folder, rank)
        except (CheckpointError, StoreError):  # a store that is away: the same again may go well
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # a damaged list may be any JSON, or none
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            raise CheckpointError(
                f"{self.output.store.describe(self._folder(checkpoint.step))} cannot be read: {type(error).__name__}: {error}"
            ) from None

    def _get(self, checkpoint: Checkpoint, folder: Path, rank: int) -> None:
        listed: dict[str, str] = {}
        for number in range(checkpoint.num_ranks):
            key = _list_of(self._folder(checkpoint.step), checkpoint, number)
            listed |= {entry["file"]: entry["sha256"] for entry in json.loads(self.output.store.read(key))}
        if not listed:
            raise CheckpointError(f"the lists of {self.output.store.describe(self._folder(checkpoint.step))} name no file")
        for name, digest in listed.items():
            owner = _OF_RANK.search(name)
            if owner and int(owner[1]) != rank:
                continue
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.output.store.read_file(f"{self._folder(checkpoint.step)}/{name}", path)
            if _digest(path) != digest:
                raise CheckpointError(f"{self.output.store.describe(self._folder(checkpoint.step))}/{name} is not what was put there")

    def keep_newest(self, num_kept: int) -> None:
        """Delete all but the newest whole checkpoints and what is newer than they (it may be under way)."""
        kept = {checkpoint.step for checkpoint in self.whole()[-num_kept:]}
        newest = max(kept, default=0)
        self._delete(lambda step: step not in kept and step < newest)

    def discard(self, checkpoint: Checkpoint) -> None:
        """Delete one that cannot be read, so that it is not taken for the newest while an older one is gone on from."""
        self._delete(lambda step: step == checkpoint.step)

    def drop(self) -> None:
        """Delete all: the training is done. In a folder that takes along what a kill left of a file under way."""
        self._delete(lambda _: True)
        if self.output.address.is_local:
            shutil.rmtree(self.output.address.folder / self.output.key / FOLDER, ignore_errors=True)

    def _delete(self, is_old: Callable[[int], bool]) -> None:
        """The steps that are old; lists first, so that there is no whole one without its files."""
        for step, name in sorted(self._files(), key=lambda file: not _LIST.match(file[1])):
            if is_old(step):
                self.output.store.delete(f"{self._folder(step)}/{name}")

    def _folder(self, step: int) -> str:
        return f"{self.output.key}/{FOLDER}/step-{step:08d}"

    def _files(self) -> Iterator[tuple[int, str]]:
        prefix = f"{self.output.key}/{FOLDER}/"
        for key in self.output.store.keys(prefix.rstrip("/")):
            step, _, name = key.removeprefix(prefix).partition("/")
            if step.startswith("step-") and name:
                yield int(step.removeprefix("step-")), name


def _list_of(folder: str, checkpoint: Checkpoint, rank: int) -> str:
    return f"{folder}/_rank-{rank:05d}-of-{checkpoint.num_ranks:05d}-{checkpoint.launch}.json"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Uploader:
    """Puts checkpoints away in a thread of its own, in their order, and clears the local folders behind it.

    A store that is slower than the training holds it up, for as long as ranks wait for each other (``launch.patience_s``) and no longer.
    """

    def __init__(self, checkpoints: CheckpointStore, rank: int, num_ranks: int, launch: str, num_kept: int) -> None:
        self._checkpoints = checkpoints
        self._rank = rank
        self._num_ranks = num_ranks
        self._launch = launch
        self._num_kept = num_kept
        # One under way and one that waits: with more, the local disk would fill.
        self._queue: queue.Queue[tuple[Path, int] | None] = queue.Queue(maxsize=1)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, folder: Path, step: int) -> None:
        """Hand a local checkpoint over.

        Raises:
            StoreError: an earlier one could not be put away (the disk is full, say): training on would be for nothing.
        """
        self._raise()
        self._queue.put((folder, step))

    def close(self) -> None:
        """Wait until all are put away.

        Raises:
            StoreError: one could not be.
        """
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            folder, step = item
            try:
                self._checkpoints.put(folder, Checkpoint(step, self._num_ranks, self._launch), self._rank)
                if self._rank == 0:
                    self._checkpoints.keep_newest(self._num_kept)
            except Exception as error:  # noqa: BLE001 - raised in the training's own thread, by put or close
                self._error = error
            with suppress(OSError):
                shutil.rmtree(folder)

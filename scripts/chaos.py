#!/usr/bin/env python3
"""Kill jobs at seeded moments, run them again, and compare what they leave with an undisturbed run, byte by byte.

    scripts/chaos.py --moments 20                         every job, 20 kills each; about a minute a kill on two cores
    scripts/chaos.py --job embed --moments 3 --seed 7     one job
    scripts/chaos.py --results kills.jsonl                go on where an earlier chaos was stopped

Each kill starts `python jobs/JOB.py` on a fresh store that holds the job's inputs and nothing else, waits until some of its
pieces (shards, checkpoints, files of a model) are done or a share of its usual time has passed, and sends SIGKILL to its
driver, to one of its Ray actors or to its raylet, in turn. What is left of that run is ended (by process id: other Rays on the
machine are not touched), every shard on disk is compared, and the same command runs again until it exits with 0, three times
at most. In the end all files must be those of the reference, and what was finished before must have been left alone.
Prints a table; exit 1 on any difference. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = REPOSITORY / "jobs/recipes/select_demo.yaml"
# One corpus in many small shards and a training of some dozen steps: a run is short, but long enough to be hit half-way.
NARROWED = (
    "matrix={}",
    "name=chaos",
    "task=bc5cdr_chemical",
    "prepare.documents_per_shard=3",
    "embed.max_seq_length=64",
    "train_reranker.tasks=[bc5cdr_chemical, bc5cdr_disease]",
    "train_reranker.name=chaos",
    "train_reranker.max_length=64",
    "train_reranker.batch_size=4",
    "train_reranker.checkpoint_every_steps=3",
    "rerank.max_length=64",
    "select.k=12",
)
VICTIMS = ("driver", "worker", "raylet")
MAX_RERUNS = 3
POLL_S = 0.002
# What may differ between two runs of one recipe: times, progress, and how far a killed training came.
VARIABLE = ("record.json", "_progress.txt", "training.json")


@dataclass(frozen=True)
class Job:
    """A job file, the kind of its output, and the kinds that it reads."""

    name: str
    kind: str
    reads: tuple[str, ...]


JOBS = {
    job.name: job
    for job in (
        Job("prepare_corpora", "corpora", ()),
        Job("embed", "vectors", ("corpora",)),
        Job("train_reranker", "rerankers", ("corpora", "vectors")),
        Job("select_examples", "selections", ("corpora", "vectors", "rerankers")),
    )
}


@dataclass(frozen=True)
class Moment:
    """When to strike: at a number of finished pieces or, without one, after a share of the usual time; then ``delay_s`` more."""

    victim: str
    pieces: int | None
    share: float
    delay_s: float

    def __str__(self) -> str:
        when = f"{self.share:.0%} of the usual time" if self.pieces is None else f"{self.pieces} pieces"
        return f"{self.victim} at {when} + {self.delay_s * 1000:.0f} ms"


@dataclass
class Kill:
    """What a kill did. ``problems`` is empty when all was as it should be."""

    job: str
    victim: str
    moment: str
    pieces_done: int = 0
    pieces_total: int = 0
    shards_kept: int = 0
    first_exit: int | None = None
    reruns: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_half_way(self) -> bool:
        """Whether some pieces were done and some were not."""
        return 0 < self.pieces_done < self.pieces_total


class NotHitError(Exception):
    """The run was over before its moment came."""


@dataclass(frozen=True)
class Process:
    """A process of this machine, as /proc shows it."""

    pid: int
    name: str
    title: str

    @property
    def is_actor(self) -> bool:
        """Whether it is a Ray worker at work (idle ones hold nothing)."""
        return self.title.startswith("ray::") and not self.title.startswith("ray::IDLE")


class Run:
    """A job under way, with every process that it started: they carry a tag in their environment."""

    def __init__(self, job: Job, recipe: Path, settings: Sequence[str], log: Path) -> None:
        self._tag = f"BIOIE_CHAOS_RUN={secrets.token_hex(8)}"
        # Short, because socket paths below it may have 107 characters.
        self._ray_folder = tempfile.mkdtemp(prefix="chaos-ray-", dir="/tmp")
        name, _, value = self._tag.partition("=")
        environment = {
            **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
            name: value,
            "RAY_TMPDIR": self._ray_folder,
            "PYTHONPATH": str(REPOSITORY),
            "HF_HUB_OFFLINE": "1",
        }
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        command = [sys.executable, str(REPOSITORY / f"jobs/{job.name}.py"), "--recipe", str(recipe), *arguments]
        with log.open("ab") as file:
            self.driver = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)

    def wait(self, timeout_s: float, meanwhile: Callable[[], None] = lambda: None) -> int | None:
        """The exit code; ``None`` when it hangs, and is then ended."""
        deadline = time.monotonic() + timeout_s
        while self.driver.poll() is None and time.monotonic() < deadline:
            meanwhile()
            time.sleep(0.02)
        code = self.driver.poll()
        self.clear()
        return code

    def processes(self) -> list[Process]:
        """The run's living processes, oldest first."""
        found = (_process(int(entry.name), self._tag) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return sorted((process for process in found if process is not None), key=lambda process: process.pid)

    def kill(self, victim: str, rng: random.Random) -> None:
        """Send SIGKILL to the driver, an actor or the raylet, waiting until there is one.

        Raises:
            NotHitError: the run ended before there was one.
        """
        while True:
            running = self.driver.poll() is None
            candidates = [process.pid for process in self.processes() if _is(victim, process, self.driver.pid)]
            if not running:
                raise NotHitError
            if candidates:
                os.kill(rng.choice(candidates), signal.SIGKILL)
                return
            time.sleep(POLL_S)

    def clear(self) -> None:
        """End what is left of the run, and remove its Ray's logs and sockets."""
        deadline = time.monotonic() + 60
        while left := self.processes():
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {[process.pid for process in left]} do not end")
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            self.driver.poll()
            time.sleep(0.05)
        self.driver.wait()
        shutil.rmtree(self._ray_folder, ignore_errors=True)


def _process(pid: int, tag: str) -> Process | None:
    try:
        folder = Path(f"/proc/{pid}")
        if tag.encode() not in (folder / "environ").read_bytes().split(b"\0"):
            return None
        title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return Process(pid, (folder / "comm").read_text().strip(), title)
    except OSError:  # ended meanwhile, or somebody else's
        return None


def _is(victim: str, process: Process, driver: int) -> bool:
    if victim == "driver":
        return process.pid == driver
    return process.name == "raylet" if victim == "raylet" else process.is_actor


@dataclass
class Reference:
    """Undisturbed outputs in ``store``, and how long each job took there."""

    store: Path
    recipe: Path
    settings: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    def make(self, jobs: Sequence[Job], log: Path) -> None:
        """Run every job that the given ones need, one after the other, and measure it."""
        needed = {kind for job in jobs for kind in (job.kind, *job.reads)}
        for job in JOBS.values():
            if job.kind in needed:
                started = time.monotonic()
                code = Run(job, self.recipe, (*self.settings, f"store={self.store}"), log).wait(3_600)
                if code != 0:
                    raise SystemExit(f"the undisturbed {job.name} ended with {code}; see {log}")
                self.seconds[job.name] = time.monotonic() - started

    def output(self, job: Job) -> Path:
        """The output folder of a job."""
        (folder,) = (self.store / job.kind).iterdir()
        return folder

    def num_pieces(self, job: Job) -> int:
        """Pieces of a finished output, counted as ``pieces_done`` does."""
        output = self.output(job)
        pieces = pieces_done(output)
        if job.kind == "rerankers":
            steps = json.loads((output / "training.json").read_text())["training"]["steps"]
            every = json.loads((output / "record.json").read_text())["recipe"]["train_reranker"]["checkpoint_every_steps"]
            pieces += (steps - 1) // every
        return pieces

    def inputs(self, job: Job, store: Path) -> None:
        """A store with the job's inputs alone: links, because outputs are never changed in place."""
        for kind in job.reads:
            shutil.copytree(self.store / kind, store / kind, copy_function=os.link)


def pieces_done(output: Path) -> int:
    """Shards with a marker, checkpoints passed (files are numbered by step; the older ones go), files of a model."""
    pieces = _count(output / "_markers") + _count(output / "model")
    newest = max((_step(path) for path in _checkpoints(output)), default=0)
    if newest:
        pieces += max(1, newest // _checkpoint_every(output))
    return pieces


def _count(folder: Path) -> int:
    try:
        return sum(not name.startswith(".") for name in os.listdir(folder))  # noqa: PTH208 - asked for every other millisecond
    except FileNotFoundError:
        return 0


def _checkpoints(output: Path) -> Iterator[Path]:
    return (output / "_checkpoints").glob("step-*.pt")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def _checkpoint_every(output: Path) -> int:
    """Steps between two checkpoints, as NARROWED has it: the claim of an output does not say."""
    (setting,) = (s for s in NARROWED if s.startswith("train_reranker.checkpoint_every_steps="))
    return int(setting.partition("=")[2])

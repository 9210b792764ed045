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
    "train_reranker.name=chaos",
    "train_reranker.tasks=[bc5cdr_chemical]",
    "train_reranker.max_length=64",
    "train_reranker.batch_size=4",
    "train_reranker.checkpoint_every_steps=4",
    "rerank.max_length=64",
    "select.k=12",
)
VICTIMS = ("driver", "worker", "raylet")
MAX_RERUNS = 3
POLL_S = 0.002
LOOK_EVERY_S = 0.3


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

    def victims(self, kind: str) -> list[int]:
        """Process ids of the run's driver, actors at work or raylet, those that live."""
        if kind == "driver":
            return [self.driver.pid]
        return [p.pid for p in self.processes() if (p.name == "raylet" if kind == "raylet" else p.is_actor)]

    def kill(self, pid: int) -> bool:
        """Send SIGKILL to a process of this run; False when it has ended."""
        if _process(pid, self._tag) is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

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
                for _ in range(MAX_RERUNS):  # on a busy machine Ray does not start every time
                    started = time.monotonic()
                    code = Run(job, self.recipe, (*self.settings, f"store={self.store}"), log).wait(3_600)
                    if code == 0:
                        break
                else:
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
            pieces += (steps - 1) // every * every
        return pieces

    def copy_inputs(self, job: Job, store: Path, copy: Callable[[str, str], object] = os.link) -> None:
        """A store with the job's inputs alone: links, because outputs are never changed in place."""
        store.mkdir()
        for kind in job.reads:
            shutil.copytree(self.store / kind, store / kind, copy_function=copy)


def pieces_done(output: Path) -> int:
    """Shards with a marker, files of a model, and training steps that a checkpoint holds."""
    return _count(output / "_markers") + _count(output / "model") + max(map(_step, _checkpoints(output)), default=0)


def _count(folder: Path) -> int:
    try:
        return sum(not name.startswith(".") for name in os.listdir(folder))  # noqa: PTH208 - asked for every other millisecond
    except FileNotFoundError:
        return 0


def _checkpoints(output: Path) -> list[Path]:
    return list((output / "_checkpoints").glob("step-*.pt"))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def draw_moment(rng: random.Random, victim: str, num_pieces: int) -> Moment:
    """Three of four moments are at a number of pieces, the others anywhere."""
    pieces = rng.randrange(1, num_pieces) if num_pieces > 1 and rng.random() < 0.75 else None
    return Moment(victim, pieces, rng.uniform(0.05, 1.0), rng.choice((0.0, rng.uniform(0.0, 0.05))))


def strike(reference: Reference, job: Job, moment: Moment, rng: random.Random, work: Path) -> Kill:
    """Start the job on a fresh store in ``work``, kill as ``moment`` says, run it to the end, and compare.

    Raises:
        NotHitError: the run was over before its moment came.
    """
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    reference.copy_inputs(job, store)
    output = store / job.kind / reference.output(job).name
    settings, log = (*reference.settings, f"store={store}"), work / "runs.log"
    patience_s = max(300.0, 10 * reference.seconds.get(job.name, 0.0))
    kill = Kill(job.name, moment.victim, str(moment), pieces_total=reference.num_pieces(job))

    run = Run(job, reference.recipe, settings, log)
    try:
        kill.pieces_done = _kill_at(moment, run, output, reference.seconds.get(job.name, 0.0), rng)
        kill.first_exit = code = run.wait(patience_s)
    finally:
        run.clear()
    if code is None:
        kill.problems.append(f"the run hung for {patience_s:.0f} s after its {moment.victim} was killed")
    kill.problems += half_made(reference.output(job), output)

    while code != 0 and kill.reruns < MAX_RERUNS:
        kill.reruns += 1
        before = Before(output)
        code = Run(job, reference.recipe, settings, log).wait(patience_s, before.watch)
        kill.shards_kept = len(before.markers)
        kill.problems += before.made_again() if code == 0 else []
    if code != 0:
        kill.problems.append(f"not finished after {MAX_RERUNS} more runs; the last ended with {code}, see {log}")
    else:
        kill.problems += differences(reference.output(job), output)
    return kill


def _kill_at(moment: Moment, run: Run, output: Path, usual_s: float, rng: random.Random) -> int:
    """Wait for the moment and kill; returns the number of pieces that were done.

    Raises:
        NotHitError: the run ended before.
    """
    began = looked = time.monotonic()
    pids: list[int] = []
    while run.driver.poll() is None:
        passed_s = time.monotonic() - began
        done = pieces_done(output)
        is_time = passed_s >= moment.share * usual_s if moment.pieces is None else done >= moment.pieces
        if is_time and pids:
            time.sleep(moment.delay_s)
            done = pieces_done(output)
            if run.kill(rng.choice(pids)):
                return done
            pids = []
        if time.monotonic() - looked > LOOK_EVERY_S or (is_time and not pids):  # beforehand, because a look takes longer than a shard
            pids, looked = run.victims(moment.victim), time.monotonic()
        time.sleep(POLL_S)
    raise NotHitError


class Before:
    """What an interrupted run left, to be compared with the output after the next one."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.markers = sorted(path.stem for path in (output / "_markers").glob("[!.]*.json"))
        finished = [path for name in self.markers for path in (output / f"{name}.parquet", output / f"_markers/{name}.json")]
        self._identities = {path: _identity(path) for path in [*finished, *(output / "model").glob("[!.]*")]}
        self._was_finished = (output / "record.json").exists()
        self._newest = max(_checkpoints(output), key=_step, default=None)
        self._newest_identity = _identity(self._newest) if self._newest else None
        self._steps_again: set[int] = set()

    def watch(self) -> None:
        """Note checkpoints that are written although a later one is there."""
        if self._newest is None:
            return
        for path in _checkpoints(self._output):
            with suppress(FileNotFoundError):
                if _step(path) <= _step(self._newest) and _identity(path) != self._newest_identity:
                    self._steps_again.add(_step(path))

    def made_again(self) -> list[str]:
        """What the next run made although it was there."""
        problems = [f"training went back to before step {step}, which a checkpoint held" for step in sorted(self._steps_again)]
        problems += [f"{path.name} was written again" for path, identity in self._identities.items() if _identity(path) != identity]
        timings = json.loads((self._output / "record.json").read_text())["timings"]
        if not self._was_finished and timings["shards_kept"] != len(self.markers):
            problems.append(f"the record says that {timings['shards_kept']} shards were kept, but {len(self.markers)} were there")
        return problems


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def half_made(reference: Path, output: Path) -> list[str]:
    """What looks finished after the kill and is not: a shard that is not whole, a record before its time."""
    if (output / "record.json").exists():
        return differences(reference, output)
    shards = output.glob("[!.]*.parquet")
    problems = [f"{shard.name} is not whole" for shard in shards if shard.read_bytes() != (reference / shard.name).read_bytes()]
    markers = (output / "_markers").glob("[!.]*.json")
    return problems + [f"{m.name} marks a shard that is not there" for m in markers if not (output / f"{m.stem}.parquet").exists()]


def differences(reference: Path, output: Path) -> list[str]:
    """Lines for all files that are not in both folders with the same bytes (times and torn remains apart)."""
    names = sorted({*_files(reference), *_files(output)})
    return [
        f"{name} differs from the undisturbed run"
        if (output / name).exists() and (reference / name).exists()
        else f"{name} is in one run only"
        for name in names
        if not _same(reference / name, output / name)
    ]


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".tmp-") and path.name != "_progress.txt":
            yield path.relative_to(folder).as_posix()


def _same(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return False
    if one.name == "record.json":
        return _lasting(one) == _lasting(other)
    if one.name == "training.json" and one.parent.name != "_markers":
        summaries = [json.loads(path.read_text()) for path in (one, other)]
        for summary in summaries:
            summary["training"].pop("train_s")
        return summaries[0] == summaries[1]
    return one.read_bytes() == other.read_bytes()


def _lasting(path: Path) -> dict[str, object]:
    """The parts of a record that speak of the output and not of the run."""
    record = json.loads(path.read_text())
    return {
        name: record[name] for name in ("fingerprint", "payload", "inputs", "seeds", "counts", "shards", "files", "exit") if name in record
    }


def strike_all(reference: Reference, job: Job, arguments: argparse.Namespace, work: Path, done: Sequence[Kill]) -> Iterator[Kill]:
    """As many kills of one job as asked for, less those that an earlier chaos did; victims take turns."""
    for number in range(len(done), arguments.moments):
        for attempt in range(20):
            rng = random.Random(f"{arguments.seed} {job.name} {number} {attempt}")
            moment = draw_moment(rng, VICTIMS[number % len(VICTIMS)], reference.num_pieces(job))
            try:
                yield strike(reference, job, moment, rng, work)
            except NotHitError:
                continue
            break
        else:
            raise SystemExit(f"{job.name}: 20 runs ended before they could be killed")


def as_table(kills: Sequence[Kill]) -> str:
    """Markdown, one row a job and victim."""
    lines = [
        "| job | killed | kills | some done, some not | runs that went on by themselves | reruns | identical |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for job in JOBS:
        for victim in VICTIMS:
            rows = [kill for kill in kills if (kill.job, kill.victim) == (job, victim)]
            if rows:
                alone, reruns = sum(kill.first_exit == 0 for kill in rows), sum(kill.reruns for kill in rows)
                identical = "yes" if not any(kill.problems for kill in rows) else "**no**"
                half_way = sum(kill.is_half_way for kill in rows)
                lines.append(f"| `{job}` | {victim} | {len(rows)} | {half_way} | {alone} | {reruns} | {identical} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", action="append", choices=sorted(JOBS), help="repeatable; left out: all")
    parser.add_argument("--moments", type=int, default=20, help="kills of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, help=f"left out: {RECIPE.name}, narrowed to one small task")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--results", type=Path, help="append each kill here as a line of JSON, and do not repeat those in it")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave stores and logs there")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run under way is ended and tidied up
    jobs = [JOBS[name] for name in arguments.job or JOBS]
    narrowed = () if arguments.recipe else NARROWED
    kills: list[Kill] = []
    if arguments.results and arguments.results.exists():
        kills = [Kill(**json.loads(line)) for line in arguments.results.read_text().splitlines()]
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    work = arguments.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        reference = Reference(work / "reference", arguments.recipe or RECIPE, (*narrowed, *arguments.settings))
        reference.make(jobs, work / "runs.log")
        say("undisturbed: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in reference.seconds.items()))
        for job in jobs:
            for kill in strike_all(reference, job, arguments, work, [kill for kill in kills if kill.job == job.name]):
                kills.append(kill)
                say(f"{job.name}: {kill.moment}: {kill.pieces_done}/{kill.pieces_total} done, exit {kill.first_exit}, {kill.reruns} reruns")
                for problem in kill.problems:
                    say(f"  {problem}")
                if arguments.results:
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(asdict(kill)) + "\n")
    finally:
        if not arguments.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(as_table(kills))
    return 1 if any(kill.problems for kill in kills) else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

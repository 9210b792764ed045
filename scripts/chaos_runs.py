"""A job under way with all its processes, and the undisturbed outputs it is held against; for `scripts/chaos.py`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos_outputs import Pieces

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_RERUNS = 3


@dataclass(frozen=True)
class Job:
    """A job file, the kinds of output that it makes (in that order, one output of each), and the kinds that it reads."""

    name: str
    kinds: tuple[str, ...]
    reads: tuple[str, ...]


_CHOSEN = ("corpora", "vectors", "rerankers", "selections")
_ANSWERED = (*_CHOSEN, "prompts", "generations")
_REVIEWED = (*_ANSWERED, "conversions-a", "conversions-b", "dmcr")
_TOLD = ("corpora", "records", "instructions")
_TAUGHT = (*_TOLD, "tokens-preft", "models-preft")
_COMPARED = (*_TAUGHT, "candidates", "preferences")
_PREFERRED = (*_COMPARED, "tokens-dpop", "reference", "models-dpop")
JOBS = {
    job.name: job
    for job in (
        Job("prepare_corpora", ("corpora",), ()),
        Job("embed", ("vectors",), ("corpora",)),
        Job("train_reranker", ("rerankers",), ("corpora", "vectors")),
        Job("select_examples", ("selections",), ("corpora", "vectors", "rerankers")),
        Job("generate", ("prompts", "generations"), _CHOSEN),
        Job("dmcr", ("conversions-a", "conversions-b", "dmcr"), _ANSWERED),
        Job("evaluate", ("scores",), _REVIEWED),
        Job("prepare_instructions", ("records", "instructions"), ("corpora",)),
        Job("train_preft", ("tokens-preft", "models-preft"), _TOLD),
        Job("make_preferences", ("candidates", "preferences"), _TAUGHT),
        Job("train_dpop", ("tokens-dpop", "reference", "models-dpop"), _COMPARED),
        Job("train_postft", ("tokens-postft", "models-postft"), _PREFERRED),
    )
}


def asking(folder: Path) -> tuple[str, ...]:
    """Settings to ask, and to tune, models of random weights, which are made in ``folder``: what they say takes long enough and is no list."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from tiny_models import save_llama

    models = [folder / name for name in ("one", "other")]
    for seed, model in enumerate(models):
        if not model.exists():
            save_llama(model, seed=seed, chat=seed == 0)
    evaluators = ", ".join(f"{{model: {model}, batch_size: 1}}" for model in models)
    return (
        f"generate.model={models[0]}",
        "generate.batch_size=1",
        f"dmcr.evaluators=[{evaluators}]",
        f"train.base_model={models[0]}",
    )


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
        try:
            while self.driver.poll() is None and time.monotonic() < deadline:
                meanwhile()
                time.sleep(0.02)
            return self.driver.poll()
        finally:
            self.clear()

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
        """Run every job that the given ones need, one after the other, and measure it; what they only read is made without Ray."""
        needed = {kind for job in jobs for kind in (*job.kinds, *job.reads)}
        for job in JOBS.values():
            if needed.intersection(job.kinds):
                inline = () if job.name in {asked.name for asked in jobs} else ("cluster.executor=inline",)
                for _ in range(MAX_RERUNS):  # on a busy machine Ray does not start every time
                    started = time.monotonic()
                    code = Run(job, self.recipe, (*self.settings, *inline, f"store={self.store}"), log).wait(3_600)
                    if code == 0:
                        break
                else:
                    raise SystemExit(f"the undisturbed {job.name} ended with {code}; see {log}")
                self.seconds[job.name] = time.monotonic() - started

    def outputs(self, job: Job) -> list[Path]:
        """The output folders of a job, in the order in which it makes them."""
        folders = []
        for kind in job.kinds:
            (folder,) = (self.store / kind).iterdir()
            folders.append(folder)
        return folders

    def pieces(self, job: Job) -> Pieces:
        """What a job's outputs are made of."""
        return Pieces(self.outputs(job))

    def copy_inputs(self, job: Job, store: Path, copy: Callable[[str, str], object] = os.link) -> None:
        """A store with the job's inputs alone: links, because outputs are never changed in place."""
        store.mkdir()
        for kind in job.reads:
            shutil.copytree(self.store / kind, store / kind, copy_function=copy)

"""What a job has made so far, what must not be made twice, and whether two outputs are the same; for `scripts/chaos.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Where the settings of the model lie in a recipe whose answers, one kept chunk after the other, become a shard; and how its markers count them.
ANSWERS: dict[str, tuple[tuple[str | int, ...], str]] = {
    "generations": (("generate",), "answers"),
    "conversions-a": (("dmcr", "evaluators", 0), "conversions"),
    "conversions-b": (("dmcr", "evaluators", 1), "conversions"),
    "candidates": (("generate",), "answers"),
}
# The parts of a record that speak of the output and not of the run.
LASTING = ("fingerprint", "payload", "inputs", "seeds", "counts", "shards", "files", "exit", "waiting", "cost_usd", "summary")


class Pieces:
    """Counts what is done of a job's outputs, by undisturbed ones.

    A piece is a shard with its marker, a file of a model, a training step that a checkpoint holds, or a chunk of answers that is kept
    while its shard is under way. A finished shard stands for its chunks too, so that the number only grows.
    """

    def __init__(self, undisturbed: Sequence[Path]) -> None:
        self._worth = {output.parent.name: _worth(output) for output in undisturbed}
        self.total = self.done(undisturbed) + sum(_steps_gone(output) for output in undisturbed)

    def done(self, outputs: Sequence[Path]) -> int:
        """Pieces of some outputs; those that do not exist have none."""
        return sum(self._done(output) for output in outputs)

    def _done(self, output: Path) -> int:
        worth = self._worth[output.parent.name]
        finished = [name.removesuffix(".json") for name in _names(output / "_markers")]
        done = sum(worth.get(shard, 1) for shard in finished)
        if output.parent.name in ANSWERS:
            done += sum(len(_names(output / "_parts" / shard)) for shard in _names(output / "_parts") if shard not in finished)
        return done + len(_names(output / "model")) + max(map(_step, _checkpoints(output)), default=0)


def _worth(output: Path) -> dict[str, int]:
    """What each shard stands for: itself and, of answers, the chunks it was kept in (no batch being cut short by its tokens)."""
    if output.parent.name not in ANSWERS:
        return {}
    place, counted = ANSWERS[output.parent.name]
    settings: Any = json.loads((output / "record.json").read_text())["recipe"]
    for name in place:
        settings = settings[name]
    size = 1 if settings["engine"] == "openai" else settings["batch_size"]
    markers = (json.loads(path.read_text()) for path in (output / "_markers").glob("[!.]*.json"))
    return {marker["shard"]: 1 - -marker["counts"][counted] // size for marker in markers}


def _steps_gone(output: Path) -> int:
    """Training steps that checkpoints held while the model was trained."""
    kind = output.parent.name
    if kind != "rerankers" and not kind.startswith("models-"):
        return 0
    summary = json.loads((output / "training.json").read_text())
    recipe = json.loads((output / "record.json").read_text())["recipe"]
    if kind == "rerankers":
        every = recipe["train_reranker"]["checkpoint_every_steps"]
        return (summary["training"]["steps"] - 1) // every * every
    return int(summary["steps"])  # the last step has a checkpoint whatever their distance


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208 - asked for every other millisecond
    except (FileNotFoundError, NotADirectoryError):
        return []


def _checkpoints(output: Path) -> list[Path]:
    """A reranker's checkpoints, and of a stage's, which are folders, what is written last: the list of one rank alone."""
    folder = output / "_checkpoints"
    names = [name for name in _names(folder) if name.startswith("step-")]  # they come and go meanwhile, which `glob` does not take
    lists = [folder / name / item for name in names if not name.endswith(".pt") for item in _names(folder / name)]
    return [folder / name for name in names if name.endswith(".pt")] + [path for path in lists if path.match("_rank-00000-of-00001-*.json")]


def _step(checkpoint: Path) -> int:
    name = checkpoint.stem if checkpoint.suffix == ".pt" else checkpoint.parent.name
    return int(name.removeprefix("step-"))


class Before:
    """What an interrupted run left of an output, to be compared with it after the next one."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.markers = sorted(path.stem for path in (output / "_markers").glob("[!.]*.json"))
        finished = [path for name in self.markers for path in (output / f"{name}.parquet", output / f"_markers/{name}.json")]
        self._identities = {path: _identity(path) for path in [*finished, *(output / "model").glob("[!.]*")]}
        self._was_finished = (output / "record.json").exists()
        self._checkpoints = {path: _identity(path) for path in _checkpoints(output)}
        self._newest_step = max(map(_step, self._checkpoints), default=0)
        self._steps_again: set[int] = set()
        self.parts = {path: _identity(path) for path in (output / "_parts").glob("*/[!.]*.json") if path.parent.name not in self.markers}
        self._parts_lost: set[str] = set()

    def watch(self) -> None:
        """Note checkpoints that are written although a later one is there, and chunks of answers that are lost or written again."""
        for path, identity in self.parts.items():
            if _identity_now(path) != identity and not (self._output / f"_markers/{path.parent.name}.json").exists():
                self._parts_lost.add(path.relative_to(self._output).as_posix())
        if not self._checkpoints:
            return
        for path in _checkpoints(self._output):
            if _step(path) <= self._newest_step and _identity_now(path) not in (None, self._checkpoints.get(path)):
                self._steps_again.add(_step(path))

    def made_again(self) -> list[str]:
        """What the next run made although it was there."""
        problems = [f"training went back to before step {step}, which a checkpoint held" for step in sorted(self._steps_again)]
        problems += [f"the answers of {name} were dropped or asked for again" for name in sorted(self._parts_lost)]
        problems += [f"{path.name} was written again" for path, identity in self._identities.items() if _identity(path) != identity]
        timings = json.loads((self._output / "record.json").read_text())["timings"]
        if not self._was_finished and timings["shards_kept"] != len(self.markers):
            problems.append(f"the record says that {timings['shards_kept']} shards were kept, but {len(self.markers)} were there")
        return problems


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _identity_now(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path)
    except FileNotFoundError:
        return None


def half_made(reference: Path, output: Path) -> list[str]:
    """What looks finished after the kill and is not: a shard that is not whole, a record before its time."""
    if (output / "record.json").exists():
        return differences(reference, output)
    shards = output.glob("[!.]*.parquet")
    problems = [f"{shard.name} is not whole" for shard in shards if shard.read_bytes() != (reference / shard.name).read_bytes()]
    markers = (output / "_markers").glob("[!.]*.json")
    return problems + [f"{m.name} marks a shard that is not there" for m in markers if not (output / f"{m.stem}.parquet").exists()]


def differences(reference: Path, output: Path) -> list[str]:
    """Lines for all files that are not in both folders with the same bytes (times, torn remains and people's decisions apart).

    Chunks of answers that a finished output has not put away are files of one run only.
    """
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
        name = path.relative_to(folder).as_posix()
        timed = path.name == "_progress.txt" or name.startswith(("_decisions/", "tensorboard/"))
        if path.is_file() and not path.name.startswith(".tmp-") and not timed:
            yield name


def _same(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return False
    if one.name == "record.json":
        return _lasting(one) == _lasting(other)
    if one.name == "training.json" and one.parent.parent.name == "rerankers":
        summaries = [json.loads(path.read_text()) for path in (one, other)]
        for summary in summaries:
            summary["training"].pop("train_s")
        return bool(summaries[0] == summaries[1])
    return one.read_bytes() == other.read_bytes()


def _lasting(path: Path) -> Mapping[str, object]:
    record = json.loads(path.read_text())
    return {name: record[name] for name in LASTING if name in record}

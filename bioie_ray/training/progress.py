"""What a training tells people and the store while it runs: numbers of every step, a line on how far it is, checkpoints, scores."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreError
from bioie_ray.training.checkpoints import Uploader
from bioie_ray.training.flops import peak_flops
from bioie_ray.training.starts import FILE as STARTS
from bioie_ray.training.starts import Starts

METRICS = "metrics.jsonl"
_NOTE_EVERY_S = 10.0


class CheckpointCallback(TrainerCallback):
    """Hands every checkpoint that the trainer wrote to the uploader."""

    def __init__(self, uploader: Uploader, folder: Path, begun: Starts) -> None:
        self._uploader = uploader
        self._folder = folder
        self._begun = begun

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Every rank hands over its own files."""
        folder = self._folder / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            (folder / STARTS).write_text(json.dumps(self._begun), encoding="utf-8")
        self._uploader.put(folder, state.global_step)


class TokensCallback(TrainerCallback):
    """Counts on where a killed training stopped: TRL forgets how many tokens it has seen."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From the numbers that the checkpoint brought."""
        seen = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if seen:
            self._trainer._total_train_tokens = int(seen[-1])  # noqa: SLF001


class MetricsCallback(TrainerCallback):
    """Of rank 0: every step's numbers as JSONL in the store, and the note that the driver shows."""

    def __init__(self, output: Output, flops_per_token: float, num_ranks: int) -> None:
        self._output = output
        self._flops_per_token = flops_per_token
        peak = peak_flops()
        self._peak = peak and peak * num_ranks  # tokens are counted over all ranks
        self._noted = self._began = time.monotonic()
        self._first: tuple[int, float] | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """A note every few seconds; tokens are those of this process's own time, not of one that was killed."""
        if not logs or "loss" not in logs:  # the trainer's last word, on the whole run
            return
        now, num_tokens = time.monotonic(), float(logs.get("num_tokens", 0.0))
        if self._first is None:
            self._first = (state.global_step, num_tokens)
            self._began = now
        if now - self._noted < _NOTE_EVERY_S and state.global_step < state.max_steps:
            return
        self._noted = now
        with suppress(StoreError):  # a line for people is not worth a training; checkpoints say what is wrong with the store
            self._output.note(self._line(state, logs, num_tokens, now - self._began))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All numbers so far, as often as a checkpoint is made: they grow with the steps."""
        self._output.store.write(f"{self._output.key}/{METRICS}", to_jsonl(state.log_history))

    def _line(self, state: Any, logs: dict[str, Any], num_tokens: float, seconds: float) -> str:
        assert self._first is not None, "set by the first log"
        first_step, first_tokens = self._first
        line = f"step {state.global_step}/{state.max_steps}, loss {logs['loss']:.4f}"
        done = state.global_step - first_step
        if done and seconds:
            rate = (num_tokens - first_tokens) / seconds
            line += f", {rate:,.0f} tokens/s"
            if self._peak:
                line += f", MFU {rate * self._flops_per_token / self._peak:.0%}"
            line += f", {(state.max_steps - state.global_step) * seconds / done:.0f} s left"
        return line


class ScoreCallback(TrainerCallback):
    """Scores the model on dev documents, keeps the best weights, and ends a stage that no longer gets better.

    ``keep_best`` and ``ask`` are called by rank 0 only; the others learn of an early end through ``agree``, which every rank calls.
    """

    def __init__(
        self,
        every: int,
        patience: int | None,
        ask: Callable[[], tuple[float, int]],
        keep_best: Callable[[int, float], None],
        agree: Callable[[bool], bool],
        best: tuple[int, float] | None,
    ) -> None:
        self._every = every
        self._patience = patience
        self._ask = ask
        self._keep_best = keep_best
        self._agree = agree
        self._best = best

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score at every ``every``-th step and at the last one."""
        step = state.global_step
        if step % self._every and step != state.max_steps:
            return
        ends = False
        if state.is_world_process_zero:
            f1, num_malformed = self._ask()
            state.log_history.append({"step": step, "dev_f1": f1, "dev_malformed": num_malformed})
            if self._best is None or f1 > self._best[1]:
                self._best = (step, f1)
                self._keep_best(step, f1)
            ends = _is_enough(step, self._best[0], self._every, self._patience)
        if self._agree(ends):
            # With a checkpoint of this very step: without it, a kill from here on would mean its steps and its scores again.
            control.should_training_stop = control.should_save = True


def had_ended(history: list[dict[str, Any]], step: int, every: int, patience: int | None) -> bool:
    """Whether a training whose checkpoint of ``step`` has this history was ended there by its scores: it must not go on from it."""
    scores = [(entry["step"], entry["dev_f1"]) for entry in history if "dev_f1" in entry]
    if not scores or scores[-1][0] != step:
        return False
    best = max(f1 for _, f1 in scores)
    return _is_enough(step, next(at for at, f1 in scores if f1 == best), every, patience)


def _is_enough(step: int, best_step: int, every: int, patience: int | None) -> bool:
    return patience is not None and step - best_step >= patience * every


def to_jsonl(history: list[dict[str, Any]]) -> bytes:
    """One line a step. Times are left out: the same training has the same lines. So is ``epoch``, which to the trainer is all of it."""
    kept = (
        {name: value for name, value in entry.items() if name != "epoch" and not name.endswith(("runtime", "per_second"))}
        for entry in history
    )
    return "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in kept if entry).encode()

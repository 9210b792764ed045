"""Progress for people: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bioie_ray.execution.units import OnDone, UnitFailure

_LINE_EVERY_S = 10.0


class Progress:
    """Writes to standard error, so that standard output stays for results."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._terminal = sys.stderr.isatty()

    def skip(self, text: str) -> None:
        """A step that was done before."""
        self._line(text)

    def done(self, text: str) -> None:
        """A step that has just been finished."""
        self._line(text)

    def debug(self, text: str) -> None:
        """Details (tracebacks) that only ``--verbose`` shows."""
        if self._verbose and text:
            self._line(text)

    @contextmanager
    def track(self, what: str, *, total: int, done: int) -> Iterator[OnDone]:
        """A callback that counts units; ``done`` of ``total`` were done by earlier runs."""
        if self._quiet:
            yield lambda unit, failure: None
        elif self._terminal:
            with self._bar(what, total, done) as advance:
                yield advance
        else:
            yield self._lines(what, total, done)

    @contextmanager
    def _bar(self, what: str, total: int, done: int) -> Iterator[OnDone]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(),
        )
        from rich.console import Console

        with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total, completed=done)

            def advance(unit: str, failure: UnitFailure | None) -> None:
                bar.advance(task)
                if failure:
                    bar.console.print(f"{what}: {unit} failed: {failure.reason}", markup=False)

            yield advance

    def _lines(self, what: str, total: int, done: int) -> OnDone:
        started = last = time.monotonic()
        count = done
        self._line(f"{what}: {total - done} of {total} units to do")

        def advance(unit: str, failure: UnitFailure | None) -> None:
            nonlocal last, count
            count += 1
            if failure:
                self._line(f"{what}: {unit} failed: {failure.reason}")
            moment = time.monotonic()
            if moment - last >= _LINE_EVERY_S and count < total:
                rate = (count - done) / (moment - started)
                self._line(f"{what}: {count}/{total}, {rate:.2f} units/s, {(total - count) / rate:.0f} s left")
                last = moment

        return advance

    def _line(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


_said_at = 0.0


def say(text: str, *, every_s: float = 0.0) -> None:
    """A line from inside a worker (Ray brings it to the driver); with ``every_s`` at most one in that time."""
    global _said_at  # noqa: PLW0603 - one clock for the process, as there is one standard error
    moment = time.monotonic()
    if not every_s or moment - _said_at >= every_s:
        _said_at = moment
        print(text, file=sys.stderr, flush=True)

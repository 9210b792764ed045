"""Progress for people: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreError
from bioie_ray.execution.units import OnDone, UnitFailure

_LINE_EVERY_S = 10.0


class Progress:
    """Writes to standard error, so that standard output stays for results."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._terminal = sys.stderr.isatty()

    def debug(self, text: str) -> None:
        """Details (tracebacks) that only ``--verbose`` shows."""
        if self._verbose and text:
            self.line(text)

    @contextmanager
    def notes(self, outputs: Sequence[Output]) -> Iterator[None]:
        """Meanwhile print what workers note down of long units (a training), whatever machine they run on."""
        stop = threading.Event()

        def watch() -> None:
            seen = {output.key: _note(output) for output in outputs}
            while not stop.wait(_LINE_EVERY_S):
                for output in outputs:
                    text = _note(output)
                    if text and text != seen[output.key]:
                        seen[output.key] = text
                        self.line(f"{output.key}: {text}")

        watcher = threading.Thread(target=watch, daemon=True)
        if outputs:
            watcher.start()
        try:
            yield
        finally:
            stop.set()

    @contextmanager
    def track(self, what: str, *, total: int, done: int) -> Iterator[OnDone]:
        """A callback that counts units; ``done`` of ``total`` were done by earlier runs."""
        if self._quiet:
            yield _ignore
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
                    bar.console.print(f"{_readable(unit)} failed: {failure.reason}", markup=False)

            yield advance

    def _lines(self, what: str, total: int, done: int) -> OnDone:
        first = last = 0.0
        count = done
        self.line(f"{what}: {total - done} of {total} units to do")

        def advance(unit: str, failure: UnitFailure | None) -> None:
            nonlocal first, last, count
            count += 1
            if failure:
                self.line(f"{_readable(unit)} failed: {failure.reason}")
            moment = time.monotonic()
            if not first:  # until then models were loaded, which says nothing of the rate
                first = last = moment
            elif moment - last >= _LINE_EVERY_S and count < total:
                rate = (count - done - 1) / (moment - first)
                self.line(f"{what}: {count}/{total}, {rate:.2f} units/s, {(total - count) / rate:.0f} s left")
                last = moment

        return advance

    def line(self, text: str) -> None:
        """One line for people."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


def _note(output: Output) -> str:
    """The last note; none while the store does not answer, which is for the workers to report."""
    try:
        return output.read_note()
    except StoreError:
        return ""


def _readable(unit: str) -> str:
    return unit.replace("\n", " ")


def _ignore(unit: str, failure: UnitFailure | None) -> None:
    """Progress that nobody wants to see."""

"""How commands speak: notes to stderr, results to stdout, log lines coloured by where they come from (on a terminal)."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bioie_ray.cluster.job_logs import Line

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta", "bright_yellow", "bright_green", "bright_blue")
_COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*m")  # Ray's own command colours its lines wherever they go


def note(text: str) -> None:
    """A sentence about what goes on, not part of any result."""
    print(text, file=sys.stderr, flush=True)


def show_line(line: Line, *, with_source: bool) -> None:
    """A line of a log to stdout; our own notes to stderr."""
    text = line.text if sys.stdout.isatty() else _COLOUR_CODES.sub("", line.text)
    if line.is_note:
        note(f"[{line.source}] {line.text}")
    elif not with_source:
        print(text, flush=True)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        colour = _COLOURS[zlib.crc32(line.source.encode()) % len(_COLOURS)]
        Console(soft_wrap=True, highlight=False).print(Text.assemble((f"[{line.source}] ", f"bold {colour}"), line.text))
    else:
        print(f"[{line.source}] {text}", flush=True)


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns to stdout, never cut: names are there to be copied."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for number, row in enumerate(cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(f"\033[1m{text}\033[0m" if number == 0 and sys.stdout.isatty() else text)

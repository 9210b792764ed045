"""Geometry of the plots of scores: lines over the number of examples, and bars of shares. As in ``plots``, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.plots import LABEL_HEIGHT, Axis, nice_axis, spread_labels

DODGE = 5.0  # pixels between the intervals of two lines at one number of examples
STYLES = 6  # lines of chosen examples that the style sheet tells apart


@dataclass(frozen=True, slots=True)
class LineInput:
    """A line as it is asked for: ``style`` from ``line_styles``, ``points`` (number of examples, F1), ascending, ``zero`` without examples."""

    label: str
    style: str
    points: tuple[tuple[int, Interval], ...]
    zero: Interval | None = None


@dataclass(frozen=True, slots=True)
class LinePoint:
    """A dot with its vertical interval."""

    x: float
    y: float
    low: float
    high: float
    number: int
    value: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line; ``style`` is its class in the style sheet, ``path`` the ``points`` of an SVG polyline."""

    label: str
    style: str
    points: tuple[LinePoint, ...]
    path: str
    label_y: float


@dataclass(frozen=True, slots=True)
class Lines:
    """A plot of F1 over the number of examples; ``starts`` are the zero-shot runs at which lines begin, each once."""

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    starts: tuple[LinePoint, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a bar: ``kind`` is its class, ``share`` of the whole bar, ``number`` what it stands for."""

    kind: str
    x: float
    width: float
    share: float
    number: int


def lines(rows: Sequence[LineInput], width: float, height: float) -> Lines:
    """One line a row, with intervals side by side and labels that do not overlap."""
    numbers = sorted({0, *(number for row in rows for number, _ in row.points)})
    zeros = list(dict.fromkeys(row.zero for row in rows if row.zero is not None))
    highs = [interval.high for row in rows for _, interval in row.points] + [zero.high for zero in zeros]
    x = Axis(0.0, float(max(numbers[-1], 1)), 0.0, width, tuple(float(n) for n in numbers))
    y = nice_axis(highs, height, 0.0, cap=1.0)
    starts = {zero: _point(x, y, 0, zero, (place - (len(zeros) - 1) / 2) * DODGE) for place, zero in enumerate(zeros)}
    drawn = []
    for place, row in enumerate(rows):
        shift = (place - (len(rows) - 1) / 2) * min(DODGE, 30.0 / max(len(rows), 1))
        points = tuple(_point(x, y, number, interval, shift) for number, interval in row.points)
        way = ([starts[row.zero]] if row.zero else []) + list(points)
        drawn.append((row, row.style, points, " ".join(f"{p.x},{p.y}" for p in way)))
    drawn.sort(key=lambda line: line[2][-1].y)
    heights = spread_labels([points[-1].y for _, _, points, _ in drawn], LABEL_HEIGHT, height)
    made = (Line(row.label, style, points, path, label_y) for (row, style, points, path), label_y in zip(drawn, heights, strict=True))
    return Lines(x, y, tuple(made), tuple(starts.values()))


def bar(parts: Sequence[tuple[str, int]], width: float) -> tuple[Segment, ...]:
    """A bar of ``width`` pixels, cut in proportion; parts of nothing are left out, and a bar of nothing is empty."""
    whole = sum(number for _, number in parts)
    segments, done = [], 0
    for kind, number in parts:
        if number:
            left, right = (round(width * n / whole, 1) for n in (done, done + number))
            segments.append(Segment(kind, left, round(right - left, 1), number / whole, number))
            done += number
    return tuple(segments)


def _point(x: Axis, y: Axis, number: int, interval: Interval, shift: float) -> LinePoint:
    return LinePoint(round(x.at(number) + shift, 1), y.at(interval.mean), y.at(interval.low), y.at(interval.high), number, interval.mean)


def line_styles(names: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A class of the style sheet for every (name, role): ``line-1`` to ``line-6`` in turn for chosen examples, greys for random ones.

    Made once for a page, so that a method has its colour in every plot.
    """
    chosen = [name for name, role in names if role == "selector"]
    drawn = [name for name, role in names if role != "selector"]
    greys = ("line-random", "line-random-2")
    return {name: f"line-{at % STYLES + 1}" for at, name in enumerate(chosen)} | {name: greys[at % 2] for at, name in enumerate(drawn)}

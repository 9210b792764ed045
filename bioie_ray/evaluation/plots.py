"""Geometry of the report's plots: numbers in, pixel positions out. The templates draw them as inline SVG.

Own SVG and no plotting library: the marks take the page's colours (light, dark, print), text stays text for search and
screen readers, and a page of eight tasks stays under 100 kB of plots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bioie_ray.evaluation.coverage import Interval

LABEL_HEIGHT = 15.0  # pixels between two labels of a scatter's label column
_NO_SPAN = 1e-300  # of which a tick is no number any more


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from ``start`` to ``stop`` (data) over ``low`` to ``high`` (pixels, either direction)."""

    start: float
    stop: float
    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Pixel position of a value, rounded to a tenth; values beyond the ends are held at them."""
        share = (min(max(value, self.start), self.stop) - self.start) / (self.stop - self.start)
        return round(self.low + share * (self.high - self.low), 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A mean with its interval on a horizontal axis (pixels)."""

    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point:
    """A dot of a scatter with its vertical interval, and the height of its label in the column at the right."""

    label: str
    role: str
    x: float
    y: float
    low: float
    high: float
    label_y: float


@dataclass(frozen=True, slots=True)
class Scatter:
    """Dots over two axes; ``width`` and ``height`` are the inner plot in pixels."""

    x: Axis
    y: Axis
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points; ``path`` is the ``points`` attribute of an SVG polyline."""

    x: Axis
    y: Axis
    path: str


def nice_axis(values: Sequence[float], low: float, high: float, num_ticks: int = 4, start: float = 0.0, cap: float | None = None) -> Axis:
    """An axis from ``start`` to a round number just past the largest value, with about ``num_ticks`` steps.

    ``cap`` (say 1.0 for shares) is never passed.
    """
    top = max([v for v in values if math.isfinite(v)], default=0.0)
    span = top - start
    if 0 <= span < _NO_SPAN:
        span = 1.0
    step = _nice_step(span / num_ticks)
    stop = start + math.ceil(round(span / step, 9)) * step
    if cap is not None:
        stop = min(stop, cap)
    count = math.floor(round((stop - start) / step, 9))
    ticks = tuple(round(start + i * step, 10) for i in range(count + 1))
    return Axis(start, stop, low, high, ticks)


def signed_axis(values: Sequence[float], low: float, high: float, num_ticks: int = 4) -> Axis:
    """An axis over values of both signs, between round numbers; 0 is among its ticks."""
    finite = [v for v in values if math.isfinite(v)]
    bottom, top = min([0.0, *finite]), max([0.0, *finite])
    span = top - bottom
    step = _nice_step((span if span >= _NO_SPAN else 1.0) / num_ticks)
    first, last = (math.floor(round(bottom / step, 9)), math.ceil(round(top / step, 9)))
    last = max(last, first + 1)
    return Axis(first * step, last * step, low, high, tuple(round(i * step, 10) for i in range(first, last + 1)))


def mark(interval: Interval, axis: Axis) -> Mark:
    """An interval on a horizontal axis."""
    return Mark(axis.at(interval.mean), axis.at(interval.low), axis.at(interval.high))


def scatter(rows: Sequence[tuple[str, str, float, Interval]], width: float, height: float) -> Scatter:
    """Rows of (label, role, x value, y interval) as a scatter whose labels do not overlap."""
    x = nice_axis([row[2] for row in rows], 0.0, width)
    y = nice_axis([row[3].high for row in rows], height, 0.0, cap=1.0)
    by_height = sorted(rows, key=lambda row: (-row[3].mean, row[0]))
    labels = spread_labels([y.at(row[3].mean) for row in by_height], LABEL_HEIGHT, height)
    points = [
        Point(label, role, x.at(value), y.at(interval.mean), y.at(interval.low), y.at(interval.high), label_y)
        for (label, role, value, interval), label_y in zip(by_height, labels, strict=True)
    ]
    return Scatter(x, y, tuple(points))


def curve(points: Sequence[tuple[float, float]], width: float, height: float) -> Curve:
    """A polyline through (x, y) values; the vertical axis starts at 0."""
    x = nice_axis([p[0] for p in points], 0.0, width, num_ticks=5)
    y = nice_axis([p[1] for p in points], height, 0.0, num_ticks=3)
    return Curve(x, y, " ".join(f"{x.at(a)},{y.at(b)}" for a, b in points))


def _nice_step(raw: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next((m * magnitude for m in (1.0, 2.0, 2.5, 5.0) if m * magnitude >= raw * (1 - 1e-9)), 10.0 * magnitude)


def spread_labels(heights: Sequence[float], gap: float, bottom: float) -> list[float]:
    """Ascending heights moved down, then up, as little as needed for ``gap`` between neighbours and none below ``bottom``."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    limit = bottom
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return [round(p, 1) for p in placed]

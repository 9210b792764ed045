"""Geometry of the plots of training: a number over the steps, one line for each run. As in ``plots``, pixels out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bioie_ray.evaluation.plots import Axis, nice_axis, signed_axis

MOST_POINTS = 200  # of a line; a long training is averaged over as many stretches of steps, and the CSV file has every step
DOTTED = 12  # a line of so few points shows them

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Trace:
    """A run's line: ``style`` is its class in the style sheet, ``path`` the ``points`` of an SVG polyline, ``dots`` (x, y, what it says)."""

    style: str
    path: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class Traces:
    """A plot of one number over the steps."""

    title: str
    x: Axis
    y: Axis
    traces: tuple[Trace, ...]


def traces(title: str, runs: Sequence[tuple[str, str, Points]], width: float, height: float, *, cap: float | None = None) -> Traces:
    """One line for each run of (label, style, points).

    Args:
        title: what the number is.
        runs: their lines; at least one has a point.
        width: of the inner plot in pixels.
        height: of the inner plot in pixels.
        cap: a share never passes 1.
    """
    drawn = [(label, style, thinned(points)) for label, style, points in runs if points]
    values = [value for _, _, points in drawn for _, value in points]
    x = nice_axis([step for _, _, points in drawn for step, _ in points], 0.0, width, num_ticks=4)
    y = nice_axis(values, height, 0.0, num_ticks=3, cap=cap) if min(values) >= 0 else signed_axis(values, height, 0.0, num_ticks=3)
    made = []
    for label, style, points in drawn:
        places = [(x.at(step), y.at(value)) for step, value in points]
        dots = tuple(
            (*place, f"{label}, step {step:,}: {value:.4g}")
            for place, (step, value) in zip(places, points, strict=True)
            if len(points) <= DOTTED
        )
        made.append(Trace(style, " ".join(f"{a},{b}" for a, b in places), dots))
    return Traces(title, x, y, tuple(made))


def thinned(points: Points) -> list[tuple[int, float]]:
    """At most ``MOST_POINTS`` points: each the mean of a stretch of steps, at its last one."""
    if len(points) <= MOST_POINTS:
        return list(points)
    bounds = [round(number * len(points) / MOST_POINTS) for number in range(MOST_POINTS + 1)]
    stretches = (points[start:stop] for start, stop in itertools.pairwise(bounds))
    return [(stretch[-1][0], sum(value for _, value in stretch) / len(stretch)) for stretch in stretches]

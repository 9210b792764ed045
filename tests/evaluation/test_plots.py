from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.plots import LABEL_HEIGHT, curve, mark, nice_axis, scatter

VALUES = st.lists(st.floats(0, 1e6, allow_subnormal=False).map(lambda v: round(v, 6)), min_size=1, max_size=12)


@given(VALUES)
def test_axis_holds_every_value_and_has_few_round_ticks(values: list[float]) -> None:
    axis = nice_axis(values, 0.0, 200.0)
    assert axis.start == 0.0
    assert axis.stop >= max(values) * (1 - 1e-9)
    assert 2 <= len(axis.ticks) <= 7
    assert [axis.at(t) for t in axis.ticks] == sorted(axis.at(t) for t in axis.ticks)


def test_axis_of_shares_ends_at_one() -> None:
    axis = nice_axis([0.97], 0.0, 100.0, cap=1.0)
    assert axis.stop == 1.0
    assert axis.ticks == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert axis.at(0.5) == 50.0


def test_mark_lies_in_its_interval() -> None:
    placed = mark(Interval(0.5, 0.4, 0.6, 10), nice_axis([1.0], 0.0, 200.0))
    assert (placed.low, placed.x, placed.high) == (80.0, 100.0, 120.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=14))
@example([5e-324])
def test_labels_of_a_scatter_never_overlap_nor_leave_the_bottom(means: list[float]) -> None:
    rows = [(f"m{i}", "selector", 1000.0 + i, Interval(m, m, m, 5)) for i, m in enumerate(means)]
    plot = scatter(rows, 300.0, 230.0)
    labels = sorted(p.label_y for p in plot.points)
    assert all(b - a >= LABEL_HEIGHT - 0.2 for a, b in itertools.pairwise(labels))
    assert labels[-1] <= 230.0
    assert {p.label for p in plot.points} == {row[0] for row in rows}


def test_curve_runs_from_left_to_right_and_down_with_the_loss() -> None:
    points = [tuple(map(float, p.split(","))) for p in curve([(10, 0.8), (20, 0.6), (30, 0.2)], 400.0, 100.0).path.split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert points[-1][1] == pytest.approx(80.0)

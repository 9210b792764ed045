from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.evaluation.plots import signed_axis
from bioie_ray.evaluation.plots_training import DOTTED, MOST_POINTS, thinned, traces


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_an_axis_of_both_signs_holds_all_values_and_has_zero_among_its_ticks(values: list[float]) -> None:
    axis = signed_axis(values, 110.0, 0.0, num_ticks=3)
    assert 0.0 in axis.ticks
    room = 1e-8 * (axis.stop - axis.start)  # less than a pixel by far
    assert axis.start <= min(values) + room
    assert max(values) <= axis.stop + room
    assert 2 <= len(axis.ticks) <= 6
    assert axis.at(axis.start) == 110.0
    assert axis.at(axis.stop) == 0.0


def test_an_axis_of_nothing_finite_is_an_axis() -> None:
    assert signed_axis([math.nan, -math.inf], 10.0, 0.0).ticks[0] == 0.0


@given(st.integers(0, 1_500))
def test_a_long_line_is_averaged_by_stretches_and_loses_no_step(number: int) -> None:
    points = [(step, float(step % 7)) for step in range(1, number + 1)]
    thin = thinned(points)
    assert len(thin) == min(number, MOST_POINTS)
    if number <= MOST_POINTS:
        assert thin == points
        return
    assert thin[-1][0] == number
    widths = [step - before for (before, _), (step, _) in zip([(0, 0.0), *thin], thin, strict=False)]
    assert sum(width * value for width, (_, value) in zip(widths, thin, strict=True)) == pytest.approx(sum(value for _, value in points))


def test_runs_share_axes_and_a_run_without_the_metric_has_no_line() -> None:
    plot = traces("Margin", [("a", "line-1", [(1, -0.5), (4, 1.0)]), ("b", "line-2", []), ("c", "line-3", [(2, 0.0)])], 300.0, 100.0)
    assert [trace.style for trace in plot.traces] == ["line-1", "line-3"]
    assert plot.traces[0].path == f"{plot.x.at(1)},{plot.y.at(-0.5)} {plot.x.at(4)},{plot.y.at(1.0)}"
    assert [says for _, _, says in plot.traces[1].dots] == ["c, step 2: 0"]
    assert plot.y.at(-0.5) > plot.y.at(0.0) > plot.y.at(1.0)


def test_only_short_lines_have_dots_and_a_share_ends_at_one() -> None:
    long = [(step, 0.99) for step in range(DOTTED + 1)]
    plot = traces("Accuracy", [("a", "line-1", long)], 300.0, 100.0, cap=1.0)
    assert plot.traces[0].dots == ()
    assert plot.y.stop == 1.0

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.plots import LABEL_HEIGHT
from bioie_ray.evaluation.plots_scores import LineInput, bar, line_styles, lines


def flat(mean: float) -> Interval:
    return Interval(mean, max(mean - 0.05, 0.0), min(mean + 0.05, 1.0), 10)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500)), max_size=8))
def test_a_bar_is_filled_in_proportion_without_gaps(parts: list[tuple[str, int]]) -> None:
    segments = bar(parts, 300.0)
    assert [(s.kind, s.number) for s in segments] == [part for part in parts if part[1]]
    if segments:
        assert segments[0].x == 0.0
        assert segments[-1].x + segments[-1].width == pytest.approx(300.0)
        assert sum(s.share for s in segments) == pytest.approx(1.0)
        assert all(a.x + a.width == pytest.approx(b.x) for a, b in itertools.pairwise(segments))
        assert all(s.width == pytest.approx(300 * s.share, abs=0.11) for s in segments)


def test_every_line_begins_at_zero_shot_and_runs_to_the_right() -> None:
    zero = flat(0.1)
    near, ders = (
        LineInput("near", "line-1", ((1, flat(0.3)), (5, flat(0.6))), zero),
        LineInput("ders", "line-random", ((1, flat(0.2)),), zero),
    )
    plot = lines([near, ders], 300.0, 200.0)
    (start,) = plot.starts
    assert (start.x, start.value) == (0.0, 0.1)
    for line in plot.lines:
        way = [tuple(map(float, point.split(","))) for point in line.path.split()]
        assert way[0] == (start.x, start.y)
        assert [x for x, _ in way] == sorted(x for x, _ in way)
        assert len(way) == len(line.points) + 1
    assert plot.x.ticks == (0.0, 1.0, 5.0)


def test_lines_without_zero_shot_begin_where_they_begin() -> None:
    plot = lines([LineInput("near", "line-1", ((1, flat(0.3)), (3, flat(0.6))))], 300.0, 200.0)
    assert plot.starts == ()
    assert len(plot.lines[0].path.split()) == 2


def test_lines_of_other_settings_begin_at_their_own_zero_shot() -> None:
    rows = [LineInput(f"near {n}", "line-1", ((1, flat(0.5)),), zero) for n, zero in enumerate((flat(0.1), flat(0.3), None))]
    plot = lines(rows, 300.0, 200.0)
    assert [(start.value, start.number) for start in plot.starts] == [(0.1, 0), (0.3, 0)]
    assert plot.starts[0].x < plot.starts[1].x  # side by side
    ways = {line.label: line.path.split() for line in plot.lines}
    assert [ways[f"near {n}"][0] for n in (0, 1)] == [f"{start.x},{start.y}" for start in plot.starts]
    assert len(ways["near 2"]) == 1


def test_intervals_at_one_number_of_examples_stand_side_by_side() -> None:
    plot = lines([LineInput(name, "line-1", ((3, flat(0.4)),)) for name in "abcd"], 300.0, 200.0)
    assert len({line.points[0].x for line in plot.lines}) == 4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_of_lines_never_overlap(means: list[float]) -> None:
    plot = lines([LineInput(f"m{n}", "line-1", ((1, flat(mean)),), flat(0.5)) for n, mean in enumerate(means)], 300.0, 220.0)
    heights = sorted(line.label_y for line in plot.lines)
    assert all(b - a >= LABEL_HEIGHT - 0.2 for a, b in itertools.pairwise(heights))
    assert {line.label for line in plot.lines} == {f"m{n}" for n in range(len(means))}


def test_chosen_examples_have_colours_and_random_ones_are_grey() -> None:
    styles = line_styles([("near", "selector"), ("ders", "random"), ("bm25", "selector"), ("fers", "random")])
    assert styles == {"near": "line-1", "bm25": "line-2", "ders": "line-random", "fers": "line-random-2"}

"""What the section on instruction data draws: the reasons that occur, and the lengths as bars."""

from __future__ import annotations

from dataclasses import dataclass

from bioie_ray.evaluation.instruction_results import InstructionsSummary
from bioie_ray.evaluation.plots import Axis, nice_axis

PLOT_WIDTH = 560.0
PLOT_HEIGHT = 130.0
_GAP = 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of the histogram: its place in pixels, and what it says."""

    x: float
    width: float
    y: float
    height: float
    says: str


@dataclass(frozen=True, slots=True)
class InstructionsView:
    """A summary with the columns and bars of its section."""

    summary: InstructionsSummary
    reasons: tuple[str, ...]
    x: Axis
    y: Axis
    bars: tuple[Bar, ...]


def instructions_view(summary: InstructionsSummary) -> InstructionsView:
    """The section of one output."""
    reasons = dict.fromkeys(reason for entry in summary.entries for reason, number in entry.left_out.items() if number)
    x = nice_axis([len(summary.lengths) * summary.bin_width], 0.0, PLOT_WIDTH, num_ticks=5)
    y = nice_axis(summary.lengths, PLOT_HEIGHT, 0.0, num_ticks=3)
    bars = []
    for place, number in enumerate(summary.lengths):
        low, high = place * summary.bin_width, (place + 1) * summary.bin_width
        top = y.at(number)
        width = round(max(1.0, x.at(high) - x.at(low) - _GAP), 1)
        bars.append(Bar(x.at(low), width, top, round(PLOT_HEIGHT - top, 1), f"{low + 1:,} to {high:,} tokens: {number:,} rows"))
    return InstructionsView(summary, tuple(reasons), x, y, tuple(bars))

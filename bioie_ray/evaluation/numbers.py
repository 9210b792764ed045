"""How the page writes numbers."""

from __future__ import annotations


def percent(share: float, decimals: int = 1) -> str:
    """A share as ``41.2 %``."""
    return f"{share * 100:.{decimals}f}\u00a0%"  # a space that does not break


def bare_percent(share: float) -> str:
    """A share in percent, where the unit stands beside it."""
    return f"{share * 100:.1f}"


def points(share: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{share * 100:+.1f}".replace("-", "−")  # a minus, as wide as the plus


def count(number: float) -> str:
    """A whole number with its thousands marked."""
    return f"{number:,.0f}"

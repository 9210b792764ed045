"""Batches of sequences of like length, under a budget of padded tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def token_budget_batches(lengths: npt.ArrayLike, budget: int) -> list[npt.NDArray[np.int64]]:
    """Positions of ``lengths`` [n] cut into batches, longest first; padded size (rows x longest) at most ``budget``.

    A sequence longer than the budget is a batch of its own. Every position occurs in exactly one batch, and the batches are
    a function of the arguments alone. Longest first: if memory does not suffice, the first batch says so, not the last.

    Raises:
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing; set batch_tokens to at least the longest sequence")
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, int(sizes[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches

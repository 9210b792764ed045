"""Batches of sequences of like length, under a budget of padded tokens; and how to single out what spoils a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Result = TypeVar("Result")


def token_budget_batches(lengths: npt.ArrayLike, budget: int) -> list[Rows]:
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


def bisect(work: Callable[[Rows], Result], rows: Rows) -> tuple[list[tuple[Rows, Result]], dict[int, str]]:
    """Do ``work`` on all ``rows``; where that raises, on each half, down to the single rows at fault.

    A batch without a fault is done in one piece, so its numbers are those it would have had anyway.

    Returns:
        The parts that went well with their results, in order, and the reason for each row that did not.

    Raises:
        MemoryError: running out of memory is no fault of a row; so is the ``RuntimeError`` that a GPU gives for it.
    """
    if len(rows) == 0:
        return [], {}
    try:
        return [(rows, work(rows))], {}
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if len(rows) == 1:
            return [], {int(rows[0]): f"{type(error).__name__}: {error}"}
    middle = len(rows) // 2
    done, failed = bisect(work, rows[:middle])
    more_done, more_failed = bisect(work, rows[middle:])
    return done + more_done, failed | more_failed


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is about the machine's memory; CUDA and CPU allocators both say so in their text only."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower()

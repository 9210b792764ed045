"""Which rows a training sees in which order, as a pure function of seed and numbers: the step is the whole position.

The rows are one stream over all epochs, cut into batches: the last batch of an epoch is filled up from the next one, so every batch is whole,
no row comes twice in an epoch, and a batch holds the same rows however many ranks share it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stream(num_rows: int, length: int, seed: int) -> npt.NDArray[np.int64]:
    """The first ``length`` rows of the endless stream: every row once in random order, then again in another one.

    Args:
        num_rows: how many there are, at least 1.
        length: how many are wanted: steps times batch size.
        seed: another one gives other orders.
    """
    num_epochs = -(-length // num_rows)
    orders = [np.random.default_rng([seed, epoch]).permutation(num_rows) for epoch in range(num_epochs)]
    return np.concatenate(orders)[:length] if orders else np.empty(0, np.int64)

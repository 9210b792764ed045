"""What a training does at which step, as pure functions of seed, epoch and step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def epoch_batches(lists: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """The batches of one epoch, as rows of ``lists`` ``[n]``, which list each pair belongs to: whole lists in random order.

    A batch takes lists up to ``batch_size`` pairs, and at least one. Each row occurs in exactly one batch; the same (seed, epoch)
    gives the same batches.
    """
    rng = np.random.default_rng([seed, epoch])
    batches: list[npt.NDArray[np.int64]] = []
    for number in rng.permutation(np.unique(lists)):
        rows = np.flatnonzero(lists == number)
        if batches and len(batches[-1]) + len(rows) <= batch_size:
            batches[-1] = np.concatenate((batches[-1], rows))
        else:
            batches.append(rows)
    return batches


def learning_rate(step: int, num_steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up to ``peak`` over the first share of the steps, then linear decay towards 0 (never 0 in a step taken)."""
    num_warmup = math.ceil(num_steps * warmup_share)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    return peak * (num_steps - step) / (num_steps - num_warmup)

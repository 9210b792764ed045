"""What a training does at which step, as pure functions of seed, epoch and step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BATCHES_PER_BUCKET = 16  # pairs sorted by length together: enough to pad little, few enough to keep the order random


def epoch_batches(lengths: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """The batches of one epoch, as rows of ``lengths`` ``[n]``: buckets drawn at random, sorted by length inside, shuffled.

    Each row occurs in exactly one batch; the same (seed, epoch) gives the same batches.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(order), batch_size * BATCHES_PER_BUCKET):
        bucket = order[start : start + batch_size * BATCHES_PER_BUCKET]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def learning_rate(step: int, num_steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up to ``peak`` over the first share of the steps, then linear decay towards 0 (never 0 in a step taken)."""
    num_warmup = math.ceil(num_steps * warmup_share)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    return peak * (num_steps - step) / (num_steps - num_warmup)

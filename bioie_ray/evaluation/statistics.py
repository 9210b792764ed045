"""Spread over repeats, bootstrap intervals over documents, and the paired comparison of two runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bioie_ray.evaluation.coverage import Floats, Interval

Ints = npt.NDArray[np.int64]
_CELLS_AT_ONCE = 4_000_000  # resampling weights held in memory: 32 MB


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over the repeats of a run. ``sd`` is the sample standard deviation (ddof 1), ``None`` of a single repeat."""

    mean: float
    sd: float | None
    min: float
    max: float
    num: int


@dataclass(frozen=True, slots=True)
class DocumentCounts:
    """Counts of a run: ``counts`` ``[repeats, documents, 3]`` hold tp, fp and fn, documents in the order of ``documents``."""

    documents: tuple[str, ...]
    counts: Ints


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean micro F1 of one run less that of another: ``difference`` over the same resampled documents, and its two-sided ``p``."""

    difference: Interval
    p: float


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation, minimum and maximum.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a spread over no repeats; give at least one")
    array = np.asarray(values, dtype=np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else None
    # the sum of equal numbers over their count may lie an ulp beside them; a mean outside its own range reads as a mistake
    mean = min(max(math.fsum(values) / len(values), min(values)), max(values))
    return Spread(mean, sd, float(array.min()), float(array.max()), len(array))


def micro_f1(counts: npt.NDArray[np.generic]) -> Floats:
    """F1 of summed counts ``[..., 3]`` (tp, fp, fn), 0 where nothing was there and nothing was answered."""
    sums = np.asarray(counts, dtype=np.float64)
    whole = 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], whole, out=np.zeros_like(whole), where=whole > 0)


def bootstrap_f1(run: DocumentCounts, samples: int = 1_000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Micro F1, averaged over repeats, with its percentile bootstrap interval.

    Documents are what is resampled, and every repeat takes the same resample: the interval says how far the score depends on
    which documents happen to be in the test set. How far it depends on the repeat is ``Spread.sd``.

    Raises:
        ValueError: no documents or no repeats.
    """
    _check(run)
    resampled = np.concatenate([_mean_f1(weights, run.counts) for weights in _resamples(len(run.documents), samples, seed)])
    return _interval(_f1(run), resampled, confidence, len(run.documents))


def paired_bootstrap(a: DocumentCounts, b: DocumentCounts, samples: int = 1_000, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Mean micro F1 of ``a`` less that of ``b``, both over the same resampled documents.

    ``p`` is two-sided, by inverting the percentile interval: twice the smaller share of resampled differences at or beyond 0,
    each share counted as (n + 1) / (samples + 1) so that it is never 0 (Davison & Hinkley 1997, section 4.2). So p < 0.05 goes with
    a 95 % interval that leaves 0 out.

    Raises:
        ValueError: the two runs are not over the same documents, or hold none.
    """
    _check(a)
    _check(b)
    if a.documents != b.documents:
        odd = sorted(set(a.documents) ^ set(b.documents))
        first = f"first: {odd[0]}" if odd else "the same ones in another order"
        raise ValueError(
            f"runs over {len(a.documents)} and {len(b.documents)} documents cannot be paired ({first}); compare runs over the same ones"
        )
    chunks = [_mean_f1(w, a.counts) - _mean_f1(w, b.counts) for w in _resamples(len(a.documents), samples, seed)]
    resampled = np.concatenate(chunks)
    tails = [int((resampled <= 0).sum()), int((resampled >= 0).sum())]
    p = min(1.0, 2 * (min(tails) + 1) / (samples + 1))
    return Comparison(_interval(_f1(a) - _f1(b), resampled, confidence, len(a.documents)), p)


def _resamples(num_documents: int, samples: int, seed: int) -> Iterator[Ints]:
    """How often each document is drawn, ``[some samples, documents]``: a multinomial draw is a resample with replacement."""
    rng = np.random.default_rng(seed)
    shares = np.full(num_documents, 1.0 / num_documents)
    at_once = max(1, _CELLS_AT_ONCE // num_documents)
    for start in range(0, samples, at_once):
        yield rng.multinomial(num_documents, shares, size=min(at_once, samples - start))


def _mean_f1(weights: Ints, counts: Ints) -> Floats:
    """Micro F1 of every resample, averaged over repeats ``[samples]``. Floats, because BLAS multiplies them and not integers."""
    sums = weights.astype(np.float64) @ counts.astype(np.float64).transpose(1, 0, 2).reshape(weights.shape[1], -1)
    means: Floats = micro_f1(sums.reshape(len(weights), -1, 3)).mean(axis=1)
    return means


def _f1(run: DocumentCounts) -> float:
    return float(micro_f1(run.counts.sum(axis=1)).mean())


def _interval(value: float, resampled: Floats, confidence: float, num: int) -> Interval:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(resampled, [tail, 100.0 - tail])
    return Interval(value, float(low), float(high), num)


def _check(run: DocumentCounts) -> None:
    if not run.documents or not len(run.counts):
        raise ValueError("an interval over no documents; give at least one document and one repeat")
    assert run.counts.shape[1:] == (len(run.documents), 3)

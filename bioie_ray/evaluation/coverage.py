"""Gold coverage: the share of a query's gold answers that occur among the gold answers of its chosen examples.

An example that shows the answer asked for is the surest help in-context learning gives, so coverage says what a
selector is worth before any language model runs. It flatters long examples, which hold more answers; read it beside
``per_1000_tokens``. Everything here is a pure function of gold sets, chosen ids and token counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2_000
_CELLS_AT_ONCE = 4_000_000  # resampled indices held in memory: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``num`` queries with its 95 % bootstrap interval (percentiles over queries)."""

    mean: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, slots=True)
class PerQuery:
    """What a selector did for each query, averaged over its draws.

    ``coverage`` holds the queries with at least one gold answer, shares in 0..1; the others are counted in
    ``num_without_gold``. ``tokens`` and ``num_examples`` hold every query: tokens of its chosen examples together,
    and how many there were.
    """

    coverage: Mapping[str, float]
    tokens: Mapping[str, float]
    num_examples: Mapping[str, float]
    num_without_gold: int
    num_draws: int


@dataclass(frozen=True, slots=True)
class CoverageSummary:
    """One line of the table: means over queries with intervals; ``None`` where no query has a gold answer.

    ``difference`` is against the baseline, paired by query; ``per_1000_tokens`` is mean coverage over mean example
    tokens, times 1,000 (a ratio of means: a query whose examples are tiny cannot dominate it).
    """

    num_queries: int
    num_without_gold: int
    num_draws: int
    coverage: Interval | None
    difference: Interval | None
    per_1000_tokens: Interval | None
    mean_tokens: float
    mean_examples: float


def lowered(answers: Collection[str]) -> frozenset[str]:
    """The answers as a lower-cased set: two spellings of one surface form count once."""
    return frozenset(answer.lower() for answer in answers)


def query_coverage(gold: Collection[str], example_gold: Collection[Collection[str]]) -> float | None:
    """Share of ``gold`` that occurs in the union of the examples' gold, or ``None`` for a query without gold."""
    asked = lowered(gold)
    if not asked:
        return None
    shown: set[str] = set()
    for answers in example_gold:
        shown.update(lowered(answers))
    return len(asked & shown) / len(asked)


def measure(
    draws: Sequence[Mapping[str, Sequence[str]]],
    query_gold: Mapping[str, Collection[str]],
    example_gold: Mapping[str, Collection[str]],
    example_tokens: Mapping[str, int],
) -> PerQuery:
    """Coverage, tokens and examples of every query, averaged over the draws of one selector.

    Args:
        draws: query id -> chosen example ids, best first. One for a deterministic selector; one a seed for a random
            one (DERS, FERS).
        query_gold: gold answers of every query, also of those without any (an empty collection).
        example_gold: gold answers of every example that was chosen.
        example_tokens: tokens of every example that was chosen, by the caller's tokenizer.

    Raises:
        ValueError: no draws, draws over other queries than ``query_gold``, or an example that is not described.
    """
    if not draws:
        raise ValueError("coverage of no draws: give at least one selection")
    for draw in draws:
        _same_queries(draw.keys(), query_gold.keys())
    asked = {query: lowered(answers) for query, answers in query_gold.items()}
    shown = {example: lowered(answers) for example, answers in example_gold.items()}
    coverage: dict[str, float] = {}
    tokens: dict[str, float] = {}
    num_examples: dict[str, float] = {}
    for query in sorted(asked):
        picks = [draw[query] for draw in draws]
        for example in {example for pick in picks for example in pick}:
            if example not in shown or example not in example_tokens:
                raise ValueError(f"query {query}: chosen example {example} is not in the pool that was given to measure it")
        tokens[query] = float(np.mean([sum(example_tokens[e] for e in pick) for pick in picks]))
        num_examples[query] = float(np.mean([len(pick) for pick in picks]))
        if asked[query]:
            shares = [len(asked[query] & frozenset().union(*(shown[e] for e in pick))) / len(asked[query]) for pick in picks]
            coverage[query] = float(np.mean(shares))
    return PerQuery(coverage, tokens, num_examples, len(asked) - len(coverage), len(draws))


def summarise(result: PerQuery, baseline: PerQuery | None = None, seed: int = 0) -> CoverageSummary:
    """The table line of one selector, against ``baseline`` (commonly DERS) where one is given.

    Raises:
        ValueError: the baseline was measured over other queries.
    """
    with_gold = sorted(result.coverage)
    values = np.array([result.coverage[q] for q in with_gold], dtype=np.float64)
    tokens = np.array([result.tokens[q] for q in with_gold], dtype=np.float64)
    difference = None
    if baseline is not None:
        _same_queries(result.coverage.keys(), baseline.coverage.keys())
        if with_gold:
            difference = bootstrap_mean(values - np.array([baseline.coverage[q] for q in with_gold]), seed)
    return CoverageSummary(
        num_queries=len(result.tokens),
        num_without_gold=result.num_without_gold,
        num_draws=result.num_draws,
        coverage=bootstrap_mean(values, seed) if with_gold else None,
        difference=difference,
        per_1000_tokens=bootstrap_ratio(values * 1_000.0, tokens, seed) if with_gold and tokens.sum() > 0 else None,
        mean_tokens=float(np.mean(list(result.tokens.values()))) if result.tokens else 0.0,
        mean_examples=float(np.mean(list(result.num_examples.values()))) if result.num_examples else 0.0,
    )


def bootstrap_mean(values: npt.ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of ``values`` ``[n]`` and the 2.5 and 97.5 percentiles of the means of seeded resamples.

    Raises:
        ValueError: no values, or a value that is not finite.
    """
    array = _finite(values)
    return bootstrap_ratio(array, np.ones_like(array), seed, resamples)


def bootstrap_ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Sum of ``numerators`` over sum of ``denominators``, both ``[n]`` and resampled together by query.

    Raises:
        ValueError: no values, lengths that differ, a value that is not finite, or denominators that sum to nothing.
    """
    top, bottom = _finite(numerators), _finite(denominators)
    if len(top) != len(bottom):
        raise ValueError(f"a ratio over {len(top)} numerators and {len(bottom)} denominators; they pair up by query")
    if bottom.sum() <= 0 or (bottom < 0).any():
        raise ValueError("a ratio needs denominators that are not negative and sum to more than 0")
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, _CELLS_AT_ONCE // len(top))
    ratios = []
    for start in range(0, resamples, rows_at_once):
        drawn = rng.integers(0, len(top), size=(min(rows_at_once, resamples - start), len(top)))
        sums = bottom[drawn].sum(axis=1)
        ratios.append(top[drawn].sum(axis=1)[sums > 0] / sums[sums > 0])
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high), len(top))


def _finite(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(array):
        raise ValueError("an interval over no values; give at least one query")
    if not np.isfinite(array).all():
        raise ValueError("an interval over a value that is not a finite number")
    return array


def _same_queries(given: AbstractSet[str], expected: AbstractSet[str]) -> None:
    if given != expected:
        odd = sorted(given ^ expected)
        raise ValueError(
            f"selections of {len(given)} queries against {len(expected)}: {len(odd)} are in only one of the two "
            f"(first: {odd[0]}); compare selections of the same split"
        )

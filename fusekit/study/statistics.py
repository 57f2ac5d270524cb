"""Intervals: over seeds by Student's t, over test samples by the bootstrap."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and where it may lie. Bounds are NaN where there is too little to tell."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        return self.low > value or self.high < value


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Of the mean of independent values: mean ± t_{n-1} s / sqrt(n) (Student 1908).

    A single value has no interval: its bounds are NaN.
    """
    array = np.asarray(values, np.float64)
    mean = float(array.mean()) if len(array) else math.nan
    if len(array) < 2:
        return Interval(mean, math.nan, math.nan)
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    half = float(stats.t.ppf((1 + confidence) / 2, len(array) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def paired_t_interval(
    ours: ArrayLike, theirs: ArrayLike, confidence: float = CONFIDENCE
) -> Interval:
    """Of the mean difference of pairs: the interval of the differences."""
    return t_interval(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64), confidence)


def draws(
    rows: int,
    measures: Sequence[Callable[[NDArray[np.int64]], float]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    tick: Callable[[], Any] = lambda: None,
    groups: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Bootstrap replicates `[resamples, measures]` (Efron 1979).

    In each, all measures see the same rows, drawn with replacement: differences are paired. Rows
    that are not independent are drawn by group, all rows of a group together.

    Args:
      rows: how many there are.
      measures: each gives a number for indices of rows `[rows]`, of which some repeat.
      resamples: how often rows are drawn.
      seed: of the draws.
      tick: called after each.
      groups: `[rows]`, the group of each, from 0 on; as many groups are drawn as there are.
    """
    random = np.random.default_rng(seed)
    found = np.empty((resamples, len(measures)))
    members = None if groups is None else _members(groups)
    for draw in range(resamples):
        if members is None:
            index = random.integers(0, rows, rows)
        else:
            drawn = random.integers(0, len(members), len(members))
            index = np.concatenate([members[group] for group in drawn])
        found[draw] = [measure(index) for measure in measures]
        tick()
    return found


def _members(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group."""
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def percentile_interval(
    estimate: float, replicates: ArrayLike, confidence: float = CONFIDENCE
) -> Interval:
    """The interval between quantiles of the replicates; NaN if one of them is."""
    array = np.asarray(replicates, np.float64)
    if not len(array) or np.isnan(array).any():
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(array, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))

"""Standardisation by the statistics of training rows."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scale(NamedTuple):
    """Subtracts a mean and divides by a deviation, feature by feature."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def fit(cls, values: Iterable[Any]) -> "Scale":
        """From values of one shape, in one pass (Welford 1962). Constant features keep scale."""
        count, mean, square = 0, np.float64(0), np.float64(0)
        for value in values:
            count += 1
            step = np.asarray(value, np.float64) - mean
            mean = mean + step / count
            square = square + step * (np.asarray(value, np.float64) - mean)
        deviation = np.sqrt(np.asarray(square) / max(count, 1))
        return cls(np.asarray(mean), np.where(deviation > 0, deviation, 1.0))

    def __call__(self, values: Any) -> NDArray[np.float32]:
        scaled = (np.asarray(values, np.float64) - self.mean) / self.deviation
        return scaled.astype(np.float32)

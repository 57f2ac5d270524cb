"""Median rank of retrieval."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fusekit.component import register
from fusekit_modules.metrics._retrieval import RetrievalSpec


@register
class MedianRankSpec(RetrievalSpec):
    """The median over rows of the rank of a row's second input for its first; 1 is the best.

    Of both directions, the mean of their medians.
    """

    type: Literal["median_rank"] = "median_rank"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def score(self, ranks: list[NDArray[np.int64]]) -> float:
        return float(np.mean([np.median(rank) for rank in ranks]))

"""Recall of retrieval."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, register
from fusekit_modules.metrics._retrieval import RetrievalSpec


@register
class RecallSpec(RetrievalSpec):
    """Share of rows whose second input is among the k most similar to the first (recall at k).

    Of several k, and of both directions, the mean is taken: it is one number. For one number a k,
    declare a metric for each.
    """

    type: Literal["recall"] = "recall"
    at: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        (1,), description="k: how many are looked at; of several the mean"
    )

    @classmethod
    def examples(cls) -> list[dict]:
        return [*super().examples(), {"inputs": ["m0", "m1"], "at": [1, 5]}]

    def score(self, ranks: list[NDArray[np.int64]]) -> float:
        return float(np.mean([np.mean(rank <= k) for rank in ranks for k in self.at]))

"""Accuracy."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, register
from fusekit_modules.metrics._scored import ClassesSpec, Floats, both_classes


@register
class AccuracySpec(ClassesSpec):
    """Share of rows (or tokens) whose class is among the `top` highest logits.

    Of equal logits the class of the lower number counts as higher.
    """

    type: Literal["accuracy"] = "accuracy"
    top: Count = Field(1, description="how many guesses a row has")

    def score(self, prediction: Floats, target: NDArray) -> float:
        logits, target = both_classes(prediction), target.astype(np.int64)
        own = np.take_along_axis(logits, target[:, None], axis=1)
        earlier = np.arange(logits.shape[1]) < target[:, None]
        ahead = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
        return float(np.mean(ahead < self.top))

"""Expected calibration error."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, register
from fusekit_modules.metrics._scored import ClassesSpec, Floats, both_classes, softmax


@register
class CalibrationErrorSpec(ClassesSpec):
    """How far confidence is from accuracy (Guo et al. 2017, equation 3).

    Rows are put by the probability of their likeliest class into bins of equal width, each closed
    above; the result is the mean over rows of |accuracy - mean confidence| of their bin.
    """

    type: Literal["calibration_error"] = "calibration_error"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bins: Count = Field(15, description="how many bins")

    def score(self, prediction: Floats, target: NDArray) -> float:
        chances = softmax(both_classes(prediction))
        confidence, right = chances.max(axis=1), chances.argmax(axis=1) == target
        edges = np.linspace(0, 1, self.bins + 1)[1:-1]
        bins = np.searchsorted(edges, confidence, side="left")
        gaps = np.bincount(bins, weights=right - confidence, minlength=self.bins)
        return float(np.abs(gaps).sum() / len(right))

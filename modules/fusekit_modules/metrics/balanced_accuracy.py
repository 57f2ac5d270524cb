"""Balanced accuracy."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusekit.component import register
from fusekit_modules.metrics._scored import ClassesSpec, Floats, both_classes


@register
class BalancedAccuracySpec(ClassesSpec):
    """Mean over classes of the share of their rows that is recognised (recall).

    Classes without a row are left out of the mean, as scikit-learn has it.
    """

    type: Literal["balanced_accuracy"] = "balanced_accuracy"

    def score(self, prediction: Floats, target: NDArray) -> float:
        right = both_classes(prediction).argmax(axis=1) == target
        return float(np.mean([right[target == c].mean() for c in np.unique(target)]))

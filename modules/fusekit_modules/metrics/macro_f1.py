"""Macro-averaged F1."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusekit.component import register
from fusekit_modules.metrics._scored import Floats, LabelsOrClassesSpec, both_classes


@register
class MacroF1Spec(LabelsOrClassesSpec):
    """Mean over classes or labels of F1 = 2 true positives / (positives + predicted positives).

    Classes that neither hold nor are predicted in any row are left out; a label of that kind
    counts as 0. Both as scikit-learn has it. A label is predicted where its logit is positive.
    """

    type: Literal["macro_f1"] = "macro_f1"

    def score(self, prediction: Floats, target: NDArray) -> float:
        if target.ndim == 2:
            guessed, holds = prediction > 0, target > 0.5
        else:
            guess = both_classes(prediction).argmax(axis=1)
            classes = np.union1d(guess, target)
            guessed, holds = guess[:, None] == classes, target[:, None] == classes
        hits = (guessed & holds).sum(axis=0)
        total = guessed.sum(axis=0) + holds.sum(axis=0)
        return float(np.mean(2 * hits / np.maximum(total, 1)))

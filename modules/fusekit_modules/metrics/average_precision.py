"""Average precision."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from fusekit.component import register
from fusekit_modules.metrics._scored import Floats, LabelsOrClassesSpec, one_against_rest


@register
class AveragePrecisionSpec(LabelsOrClassesSpec):
    """Sum over score thresholds of precision times the growth of recall.

    Of two classes, that of the second; of more, and of labels, the mean over them. A class or
    label that holds in no row counts as 0, as scikit-learn has it.
    """

    type: Literal["average_precision"] = "average_precision"

    def score(self, prediction: Floats, target: NDArray) -> float:
        scores, truths = one_against_rest(prediction, target)
        return float(np.mean([average(scores[:, k], truths[:, k]) for k in range(scores.shape[1])]))


def average(scores: Float[np.ndarray, "m"], truth: Bool[np.ndarray, "m"]) -> float:
    """Average precision of one column; rows of equal score enter together."""
    if not truth.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))

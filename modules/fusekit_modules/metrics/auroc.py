"""Area under the receiver operating characteristic."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from fusekit.component import register
from fusekit_modules.metrics._scored import Floats, LabelsOrClassesSpec, one_against_rest


@register
class AurocSpec(LabelsOrClassesSpec):
    """Chance that a row of a class scores above one that is not; equal scores count half.

    Of two classes, that of the second; of more, the mean over classes, each against the rest by
    its probability; of labels, the mean over labels. NaN if a class or label holds in no row or
    in all, where scikit-learn gives NaN or refuses.
    """

    type: Literal["auroc"] = "auroc"

    def score(self, prediction: Floats, target: NDArray) -> float:
        scores, truths = one_against_rest(prediction, target)
        areas = [area(scores[:, k], truths[:, k]) for k in range(scores.shape[1])]
        return float(np.mean(areas))


def area(scores: Float[np.ndarray, "m"], truth: Bool[np.ndarray, "m"]) -> float:
    """The area by ranks (Mann and Whitney 1947); NaN without both kinds of rows."""
    from scipy.stats import rankdata  # takes a second or two to import

    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    above = rankdata(scores)[truth].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))

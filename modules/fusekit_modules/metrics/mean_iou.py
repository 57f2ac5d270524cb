"""Mean intersection over union."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusekit.component import register
from fusekit_modules.metrics._scored import ClassesSpec, Floats, both_classes


@register
class MeanIouSpec(ClassesSpec):
    """Mean over classes of the positions where a class holds and is predicted, over those where
    either is so (Everingham et al. 2010, section 4.4).

    Counts are of the whole split, not means over images. Classes that neither hold nor are
    predicted anywhere are left out. Of equal logits the class of the lower number is predicted.
    """

    type: Literal["mean_iou"] = "mean_iou"

    def score(self, prediction: Floats, target: NDArray) -> float:
        guess, target = both_classes(prediction).argmax(axis=1), target.astype(np.int64)
        count = int(max(guess.max(), target.max())) + 1
        table = np.bincount(count * target + guess, minlength=count * count).reshape(count, count)
        both = np.diag(table)
        either = table.sum(axis=0) + table.sum(axis=1) - both
        return float(np.mean(both[either > 0] / either[either > 0]))

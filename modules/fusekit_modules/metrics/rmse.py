"""Root of the mean squared error."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from fusekit.component import register
from fusekit_modules.metrics._error import ErrorSpec


@register
class RmseSpec(ErrorSpec):
    """Root of the mean squared difference over rows, averaged over features as in scikit-learn."""

    type: Literal["rmse"] = "rmse"

    def error(self, difference: Float[np.ndarray, "m d"]) -> float:
        return float(np.sqrt(np.square(difference).mean(axis=0)).mean())

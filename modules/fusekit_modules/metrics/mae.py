"""Mean absolute error."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from fusekit.component import register
from fusekit_modules.metrics._error import ErrorSpec


@register
class MaeSpec(ErrorSpec):
    """Mean absolute difference of prediction and target, over rows and features."""

    type: Literal["mae"] = "mae"

    def error(self, difference: Float[np.ndarray, "m d"]) -> float:
        return float(np.abs(difference).mean())

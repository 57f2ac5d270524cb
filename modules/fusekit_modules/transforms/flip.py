from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Rate, register
from fusekit_modules.transforms.arrays import ArrayTransformSpec, image_axes


@register
class FlipSpec(ArrayTransformSpec):
    """Mirrors an image `[h, w]` or `[..., h, w, c]` in some of the rows."""

    type: Literal["flip"] = "flip"
    axis: Literal["width", "height"] = Field("width", description="left to right, or upside down")
    rate: Rate = Field(0.5, description="how often")

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        height, width = image_axes(value, self.type)
        if rng.random() >= self.rate:
            return value
        return np.flip(value, height if self.axis == "height" else width)

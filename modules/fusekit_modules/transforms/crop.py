from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import register
from fusekit_modules.transforms.arrays import ArrayTransformSpec, image_axes


@register
class CropSpec(ArrayTransformSpec):
    """Pads an image on all sides and cuts its size out again at a random place.

    Images are `[h, w]` or `[..., h, w, c]`; the frames of a video are cut alike.
    """

    type: Literal["crop"] = "crop"
    padding: int = Field(4, ge=1, le=10_000, description="pixels added on each side")
    fill: Literal["zero", "edge", "reflect"] = Field("zero", description="what is added")

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        axes = image_axes(value, self.type)
        wide = [(self.padding, self.padding) if a in axes else (0, 0) for a in range(value.ndim)]
        padded = np.pad(value, wide, mode="constant" if self.fill == "zero" else self.fill)
        cut = [slice(None)] * value.ndim
        for axis in axes:
            start = int(rng.integers(2 * self.padding + 1))
            cut[axis] = slice(start, start + value.shape[axis])
        return padded[tuple(cut)]

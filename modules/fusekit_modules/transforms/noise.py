from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import register
from fusekit_modules.transforms.arrays import ArrayTransformSpec


@register
class NoiseSpec(ArrayTransformSpec):
    """Adds Gaussian noise, independent in every element, on the scale of the raw values.

    Floats stay floats; integers are rounded and clipped to what their type can hold.
    """

    type: Literal["noise"] = "noise"
    deviation: Annotated[float, Field(ge=0.0, le=1e9)] = Field(0.1, description="of the noise")

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        noisy = value + self.deviation * rng.standard_normal(value.shape)
        if value.dtype.kind in "iu":
            limits = np.iinfo(value.dtype)
            noisy = np.clip(np.rint(noisy), limits.min, limits.max)
        return noisy.astype(np.float32 if value.dtype.kind == "b" else value.dtype)

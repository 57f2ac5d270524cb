from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import register
from fusekit.errors import DataError
from fusekit_modules.transforms.arrays import ArrayTransformSpec

Deviation = Annotated[float, Field(gt=0.0, le=1e9)]


@register
class NormaliseSpec(ArrayTransformSpec):
    """Subtracts a mean and divides by a deviation that are given, one number or one a channel.

    For statistics of the training rows see `standardise` of a source.
    """

    type: Literal["normalise"] = "normalise"
    when: Literal["train", "always"] = Field("always", description="in training only, or always")
    mean: float | tuple[float, ...] = Field(0.0, description="subtracted; a list is by last axis")
    deviation: Deviation | tuple[Deviation, ...] = Field(1.0, description="divided by")

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        for given in (self.mean, self.deviation):
            if isinstance(given, tuple) and value.shape[-1:] != (len(given),):
                raise DataError(
                    f"normalise has {len(given)} numbers for {self.modality},"
                    f" whose array has shape {value.shape}"
                )
        scaled = (value - np.asarray(self.mean, np.float64)) / np.asarray(self.deviation)
        return scaled.astype(np.float32)

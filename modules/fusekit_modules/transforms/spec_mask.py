from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import register
from fusekit.errors import DataError
from fusekit_modules.transforms.arrays import ArrayTransformSpec

Number = Annotated[int, Field(ge=0, le=100)]
Size = Annotated[int, Field(ge=0, le=10_000)]


@register
class SpecMaskSpec(ArrayTransformSpec):
    """Masks runs of frames and of bands of a spectrogram `[time, band]`.

    SpecAugment (Park et al., Interspeech 2019, section 2) without time warping: a run's width is
    uniform in 0..width (at most the axis), its start uniform over where it fits.
    """

    type: Literal["spec_mask"] = "spec_mask"
    time_masks: Number = Field(1, description="runs of frames")
    time_width: Size = Field(5, description="frames of a run, at most")
    band_masks: Number = Field(1, description="runs of bands")
    band_width: Size = Field(4, description="bands of a run, at most")
    fill: Literal["zero", "mean"] = Field("mean", description="what stands in a run")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"modality": "audio"}]

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        if value.ndim != 2:
            raise DataError(f"spec_mask changes [time, band]; this array has shape {value.shape}")
        masked, fill = value.copy(), value.mean() if self.fill == "mean" else 0
        for axis, masks, width in (
            (0, self.time_masks, self.time_width),
            (1, self.band_masks, self.band_width),
        ):
            for _ in range(masks):
                run = int(rng.integers(min(width, value.shape[axis]) + 1))
                start = int(rng.integers(value.shape[axis] - run + 1))
                hit = slice(start, start + run)
                masked[(hit, slice(None)) if axis == 0 else (slice(None), hit)] = fill
        return masked

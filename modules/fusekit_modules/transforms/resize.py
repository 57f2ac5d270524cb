from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from fusekit.component import Count, register
from fusekit.errors import DataError
from fusekit_modules.transforms.arrays import ArrayTransformSpec

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@register
class ResizeSpec(ArrayTransformSpec):
    """Scales an image `[h, w]` or `[h, w, c]` to a size, channel by channel (Pillow).

    Integers of 8 bits stay such; all else becomes float32. Smaller sizes are antialiased.
    """

    type: Literal["resize"] = "resize"
    when: Literal["train", "always"] = Field("always", description="in training only, or always")
    size: tuple[Count, Count] = Field(description="height, width")
    filter: Literal["nearest", "bilinear", "bicubic"] = Field("bilinear", description="how")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"modality": "image", "size": [4, 4]}]

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        if value.ndim not in (2, 3):
            raise DataError(f"resize changes images; this array has shape {value.shape}")
        planes = value if value.dtype == np.uint8 else value.astype(np.float32)
        planes = planes.reshape(*value.shape[:2], -1)
        height, width = self.size
        scaled = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(planes[..., c])).resize(
                    (width, height), FILTERS[self.filter]
                )
            )
            for c in range(planes.shape[-1])
        ]
        return np.stack(scaled, axis=-1).reshape(height, width, *value.shape[2:])

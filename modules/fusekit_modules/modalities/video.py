"""Videos."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import Count, register
from fusekit.stream import Signature
from fusekit_modules.modalities._entry import Collated, check_shape, misfit
from fusekit_modules.modalities.image import PixelsSpec


@register
class VideoSpec(PixelsSpec):
    """A video as a grid `[time, height, width, channel]` in float32.

    A row is an array of at most that many frames; missing frames at the end are padding.
    """

    type: Literal["video"] = "video"
    shape: tuple[Count, Count, Count, Count] = Field(description="frames, height, width, channels")
    padded: bool = Field(True, description="rows may have fewer frames")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"shape": [3, 4, 6, 1]}, {"shape": [2, 4, 4, 3], "padded": False}]

    def channels(self) -> int:
        return self.shape[3]

    def signature(self) -> Signature:
        axes = ("time", "height", "width", "channel")
        sizes = tuple(zip(axes, self.shape, strict=True))
        return Signature(sizes, padded=self.padded, optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, time, height, width, channel]` and frames `[b, time]`, if padded."""
        values = np.zeros((len(rows), *self.shape), np.float32)
        mask = np.zeros((len(rows), self.shape[0]), bool)
        for index, row in enumerate(rows):
            array = np.asarray(row)
            check_shape(array, index, (None, *self.shape[1:]))
            count, most = len(array), self.shape[0]
            if count > most or (count < most and not self.padded):
                bound = "at most " if self.padded else ""
                raise misfit(index, f"{count} frames", f"{bound}{most}")
            values[index, :count] = self.scaled(array, index, "frames of numbers")
            mask[index, :count] = True
        return values, mask if self.padded else None

"""Spectrograms."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import Count, register
from fusekit.stream import Signature
from fusekit_modules.modalities._entry import (
    Collated,
    EntrySpec,
    Floats,
    as_floats,
    check_shape,
    stacked,
)


@register
class SpectrogramSpec(EntrySpec):
    """A spectrogram as a grid `[time, frequency, channel]` of one channel, in float32.

    To a patch encoder or a convolution it is an image: time is its height, frequency its width. A
    row is an array `[time, bands]` or `[time, bands, 1]` of exactly that size.
    """

    type: Literal["spectrogram"] = "spectrogram"
    shape: tuple[Count, Count] = Field(description="time steps, frequency bands")
    mean: float = Field(0.0, description="subtracted from every value")
    std: float = Field(1.0, gt=0, description="every value is divided by it")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"shape": [4, 6]}, {"shape": [4, 4], "mean": -20.0, "std": 10.0}]

    def signature(self) -> Signature:
        time, bands = self.shape
        sizes = (("time", time), ("frequency", bands), ("channel", 1))
        return Signature(sizes, optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, time, frequency, 1]`; no mask."""
        return stacked(rows, self._one, np.zeros((0, *self.shape, 1), np.float32)), None

    def _one(self, row: Any, index: int) -> Floats:
        array = as_floats(row, index, "a spectrogram of numbers")
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        check_shape(array, index, self.shape)
        return ((array - np.float32(self.mean)) / np.float32(self.std))[..., None]

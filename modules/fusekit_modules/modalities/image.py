"""Images."""

from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fusekit.component import Count, Positive, register
from fusekit.stream import Signature
from fusekit_modules.modalities._entry import (
    Collated,
    EntrySpec,
    Floats,
    as_floats,
    check_shape,
    misfit,
    stacked,
)


class Standard(BaseModel):
    """Subtracts `mean` and divides by `std`, by channel, after bytes have become 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...] = Field(description="of each channel")
    std: tuple[Positive, ...] = Field(description="of each channel")


Normalise = Literal["unit", "none"] | Standard


class PixelsSpec(EntrySpec):
    """What images and videos share: channels come last and are normalised."""

    normalise: Normalise = Field(
        "unit",
        description="unit: bytes 0..255, and 16 bits, become 0..1; none; or {mean, std} after unit",
    )

    def scaled(self, row: Any, index: int, expected: str) -> Floats:
        """A raw row as normalised numbers. Integers of 8 or 16 bits are divided by their type's
        greatest value; wider ones, such as those of a list, are bytes; others stay in scale."""
        array = row if isinstance(row, np.ndarray) else np.asarray(row)
        floats = as_floats(array, index, expected)
        if self.normalise == "none":
            return floats
        if array.dtype.kind in "iu":
            floats = floats / np.float32(_greatest(array, index))
        if isinstance(self.normalise, Standard):
            mean = np.asarray(self.normalise.mean, np.float32)
            floats = (floats - mean) / np.asarray(self.normalise.std, np.float32)
        return floats

    def channels(self) -> int:
        raise NotImplementedError

    @model_validator(mode="after")
    def _per_channel(self) -> "PixelsSpec":
        if isinstance(self.normalise, Standard):
            counts = {len(self.normalise.mean), len(self.normalise.std)}
            if counts != {self.channels()}:
                raise ValueError(f"mean and std have one entry a channel: {self.channels()}")
        return self


def _greatest(array: np.ndarray, index: int) -> int:
    """What stands for full brightness. Raises `DataError` where wide integers are no bytes."""
    if array.dtype.itemsize <= 2:
        return int(np.iinfo(array.dtype).max)
    outside = array[(array < 0) | (array > 255)]
    if outside.size:
        expected = "bytes from 0 to 255, an array of 16 bits, or normalise: none"
        raise misfit(index, f"{outside.flat[0]} among integers of {array.dtype}", expected)
    return 255


@register
class ImageSpec(PixelsSpec):
    """An image as a grid `[height, width, channel]` in float32.

    A row is an array of that shape (without the last axis, if there is one channel), a Pillow
    image, or the bytes of a PNG or JPEG file. Sizes must be exact: resizing is a transform.
    """

    type: Literal["image"] = "image"
    shape: tuple[Count, Count, Count] = Field(description="height, width, channels")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"shape": [4, 6, 3]},
            {"shape": [4, 4, 1], "normalise": {"mean": [0.5], "std": [0.25]}},
        ]

    def channels(self) -> int:
        return self.shape[2]

    def signature(self) -> Signature:
        axes = ("height", "width", "channel")
        return Signature(tuple(zip(axes, self.shape, strict=True)), optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, height, width, channel]`; no mask."""
        return stacked(rows, self._one, np.zeros((0, *self.shape), np.float32)), None

    def _one(self, row: Any, index: int) -> Floats:
        if isinstance(row, bytes):
            row = _decoded(row, index, self.shape[2])
        elif isinstance(row, Pillow.Image):
            row = np.asarray(row)
        array = np.asarray(row)
        if array.ndim == 2 and self.shape[2] == 1:
            array = array[..., None]
        check_shape(array, index, self.shape)
        return self.scaled(array, index, "an image of numbers")


def _decoded(content: bytes, index: int, channels: int) -> np.ndarray:
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise misfit(index, "an image file", f"an array, since there are {channels} channels")
    try:
        with Pillow.open(BytesIO(content)) as image:
            if channels == 1 and image.mode.startswith("I;16"):  # L would cut it off at 255
                return np.asarray(image)
            return np.asarray(image.convert(modes[channels]))
    except (UnidentifiedImageError, OSError):
        raise misfit(index, f"{len(content)} bytes", "the bytes of an image file") from None

"""Waveforms."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import Count, register
from fusekit.stream import Signature, sequence
from fusekit_modules.modalities._entry import (
    Collated,
    Floats,
    RaggedSpec,
    as_floats,
    check_shape,
    misfit,
)


@register
class WaveformSpec(RaggedSpec):
    """Sound as a sequence `[time, 1]` of samples in float32.

    A row is an array `[time]` or `[time, 1]`. Integers of 8, 16 or 32 bits are scaled by their
    type's greatest value, so that sound lies between -1 and 1; bytes are unsigned, with silence at
    128, as in WAV files. Other integers, such as those of a list, are taken for 16-bit sound.
    """

    type: Literal["waveform"] = "waveform"
    rate: Count | None = Field(None, description="samples a second; for reports and transforms")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"length": 6}, {"length": 4, "rate": 8000, "padded": False, "longer": "cut"}]

    def signature(self) -> Signature:
        return sequence(self.length, 1, padded=self.padded, optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, length, 1]` and, if padded, the mask `[b, length]`."""
        given = []
        for index, row in enumerate(rows):
            array = self._scaled(row, index)
            array = array[:, None] if array.ndim == 1 else array
            check_shape(array, index, (None, 1))
            given.append(array)
        return self.pad(given, (1,))

    @staticmethod
    def _scaled(row: Any, index: int) -> Floats:
        array = as_floats(row, index, "a waveform of numbers")
        kind = np.asarray(row).dtype
        if kind.kind not in "iu" or not array.size:
            return array
        if kind.kind == "i" and kind.itemsize <= 4:
            return array / np.float32(np.iinfo(kind).max)
        if kind.kind == "u" and kind.itemsize <= 2:
            middle = np.iinfo(kind).max // 2
            return (array - np.float32(middle + 1)) / np.float32(middle)
        loudest = float(np.abs(array).max())
        if loudest > 2**15:
            found = f"a sample of size {loudest:.0f}"
            raise misfit(index, found, "16-bit sound, or an array of type int32")
        return array / np.float32(2**15 - 1)

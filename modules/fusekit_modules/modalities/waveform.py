"""Waveforms."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import Count, register
from fusekit.stream import Signature, sequence
from fusekit_modules.modalities._entry import Collated, RaggedSpec, as_floats, check_shape


@register
class WaveformSpec(RaggedSpec):
    """Sound as a sequence `[time, 1]` of samples in float32.

    A row is an array `[time]` or `[time, 1]`. Integers are scaled by their type's greatest value,
    so that 16-bit sound lies between -1 and 1.
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
            array = as_floats(row, index, "a waveform of numbers")
            if isinstance(row, np.ndarray) and row.dtype.kind == "i":
                array = array / np.float32(np.iinfo(row.dtype).max)
            array = array[:, None] if array.ndim == 1 else array
            check_shape(array, index, (None, 1))
            given.append(array)
        return self.pad(given, (1,))

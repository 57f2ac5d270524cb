"""Time series."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import Width, register
from fusekit.stream import Signature, sequence
from fusekit_modules.modalities._entry import Collated, RaggedSpec, as_floats, check_shape


@register
class TimeSeriesSpec(RaggedSpec):
    """Measurements over time as a sequence `[time, channels]` in float32.

    A row is an array `[time, channels]` (`[time]`, if there is one channel) of any time up to
    `length`; what is missing at the end is padding.
    """

    type: Literal["time_series"] = "time_series"
    channels: Width = Field(description="measurements a step")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"length": 5, "channels": 3}, {"length": 4, "channels": 1, "padded": False}]

    def signature(self) -> Signature:
        return sequence(self.length, self.channels, padded=self.padded, optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, length, channels]` and, if padded, the mask `[b, length]`."""
        given = []
        for index, row in enumerate(rows):
            array = as_floats(row, index, "a series of numbers")
            array = array[:, None] if array.ndim == 1 and self.channels == 1 else array
            check_shape(array, index, (None, self.channels))
            given.append(array)
        return self.pad(given, (self.channels,))

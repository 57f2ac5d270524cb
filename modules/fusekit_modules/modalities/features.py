"""Features computed beforehand, and vector targets."""

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from fusekit.component import Count, Width, register
from fusekit.stream import Signature, sequence, vector
from fusekit_modules.modalities._entry import (
    Collated,
    EntrySpec,
    Floats,
    Longer,
    as_floats,
    check_shape,
    pad,
    stacked,
)


@register
class FeaturesSpec(EntrySpec):
    """Given features: a vector `[width]`, or with `length` a sequence `[length, width]`.

    A row is an array of that shape; a sequence may be shorter, and is padded. Without `length` it
    serves as the target of a regression too.
    """

    type: Literal["features"] = "features"
    width: Width = Field(description="features of a vector or of a position")
    length: Count | None = Field(None, description="positions, for a sequence")
    padded: bool = Field(True, description="sequences may be shorter")
    longer: Longer = Field("error", description="what to do with longer rows")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 5}, {"width": 3, "length": 4}]

    @model_validator(mode="after")
    def _ragged_only(self) -> "FeaturesSpec":
        given = {"padded", "longer"} & self.model_fields_set
        if self.length is None and given and (not self.padded or self.longer != "error"):
            raise ValueError(f"{' and '.join(sorted(given))} is of sequences: give a length")
        return self

    def signature(self) -> Signature:
        if self.length is None:
            return vector(self.width, optional=self.optional)
        return sequence(self.length, self.width, padded=self.padded, optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """`[b, width]`; or `[b, length, width]` with, if padded, the mask `[b, length]`."""
        if self.length is None:
            return stacked(rows, self._one, np.zeros((0, self.width), np.float32)), None
        given = [as_floats(row, index, "features in numbers") for index, row in enumerate(rows)]
        for index, array in enumerate(given):
            check_shape(array, index, (None, self.width))
        return pad(given, self.length, (self.width,), padded=self.padded, longer=self.longer)

    def _one(self, row: Any, index: int) -> Floats:
        array = as_floats(row, index, "features in numbers")
        check_shape(array, index, (self.width,))
        return array

"""Numbers."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import register
from fusekit.stream import Signature
from fusekit_modules.modalities._entry import (
    Collated,
    EntrySpec,
    Floats,
    as_floats,
    misfit,
    stacked,
)


@register
class NumberSpec(EntrySpec):
    """One real number, such as the target of a regression, as a scalar in float32."""

    type: Literal["number"] = "number"
    mean: float = Field(0.0, description="subtracted from every value")
    std: float = Field(1.0, gt=0, description="every value is divided by it")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"mean": 3.0, "std": 2.0}]

    def signature(self) -> Signature:
        return Signature((), optional=self.optional)

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b]`; no mask."""
        return stacked(rows, self._one, np.zeros((0,), np.float32)), None

    def _one(self, row: Any, index: int) -> Floats:
        array = as_floats(row, index, "a number")
        if array.size != 1:
            raise misfit(index, f"shape {array.shape}", "one number")
        return ((array - np.float32(self.mean)) / np.float32(self.std)).reshape(())

"""Maps of classes."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, Width, register
from fusekit.stream import Signature
from fusekit_modules.modalities._entry import Collated, EntrySpec, as_codes, check_shape, stacked


@register
class CategoryMapSpec(EntrySpec):
    """A class at each pixel, `[height, width]` in int32: what a segmentation is to be.

    A row is an array of that shape with whole numbers from 0 to `classes` - 1.
    """

    type: Literal["category_map"] = "category_map"
    shape: tuple[Count, Count] = Field(description="height, width")
    classes: Width = Field(description="how many classes there are")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"shape": [4, 6], "classes": 3}]

    def signature(self) -> Signature:
        return Signature(
            (("height", self.shape[0]), ("width", self.shape[1])),
            dtype="int",
            optional=self.optional,
            classes=self.classes,
        )

    def collate(self, rows: list[Any]) -> Collated:
        """Classes `[b, height, width]` in int32; no mask."""

        def one(row: Any, index: int) -> NDArray[Any]:
            codes = as_codes(row, index, self.classes, f"classes 0 to {self.classes - 1}")
            check_shape(codes, index, self.shape)
            return codes

        return stacked(rows, one, np.zeros((0, *self.shape), np.int32)), None

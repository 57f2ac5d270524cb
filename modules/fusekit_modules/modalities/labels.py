"""Labels of which several may hold."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import register
from fusekit.stream import Signature, vector
from fusekit_modules.modalities._classes import Classes, code_of, count_of, names_of
from fusekit_modules.modalities._entry import (
    Collated,
    EntrySpec,
    Floats,
    as_floats,
    check_shape,
    misfit,
    stacked,
)


@register
class LabelsSpec(EntrySpec):
    """Which of several labels hold, as a vector of 0 and 1 in float32.

    A row is such a vector, or the list of names that hold, if names are declared.
    """

    type: Literal["labels"] = "labels"
    classes: Classes = Field(description="how many labels there are, or their names")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"classes": 3}, {"classes": ["cat", "dog"]}]

    def signature(self) -> Signature:
        known = vector(count_of(self.classes), optional=self.optional)
        return known.with_(names=names_of(self.classes))

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, classes]`; no mask."""
        empty = np.zeros((0, count_of(self.classes)), np.float32)
        return stacked(rows, self._one, empty), None

    def _one(self, row: Any, index: int) -> Floats:
        count = count_of(self.classes)
        if not isinstance(self.classes, int) and _of_names(row):
            values = np.zeros((count,), np.float32)
            values[[code_of(item, index, self.classes) for item in row]] = 1
            return values
        values = as_floats(row, index, "a vector of 0 and 1, or a list of declared names")
        check_shape(values, index, (count,))
        other = values[(values != 0) & (values != 1)]
        if other.size:
            raise misfit(index, f"the value {other[0]}", "0 or 1")
        return values


def _of_names(row: Any) -> bool:
    """Whether a row is a collection of names, or empty."""
    if isinstance(row, str | bytes | Mapping) or not isinstance(row, Collection):
        return False
    if isinstance(row, np.ndarray) and row.ndim != 1:
        return False
    return all(isinstance(item, str) for item in row)

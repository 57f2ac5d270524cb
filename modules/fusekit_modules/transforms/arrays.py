"""Helpers of transforms: a modality's raw value as an array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import TransformSpec
from fusekit.errors import DataError


class ArrayTransformSpec(TransformSpec):
    """Base of transforms of one modality's array. An absent modality stays absent."""

    modality: str = Field(description="the modality to change")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"modality": "image"}]

    def touches(self) -> tuple[str, ...]:
        return (self.modality,)

    def apply(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if row.get(self.modality) is None:
            return row
        value = np.asarray(row[self.modality])
        if value.dtype.kind not in "biuf":
            raise DataError(f"{self.type} changes arrays of numbers; {self.modality} is none")
        return {**row, self.modality: self.change(value, rng)}

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The changed array; `value` is left as it is."""
        raise NotImplementedError


def image_axes(value: NDArray[Any], kind: str) -> tuple[int, int]:
    """Axes of height and width: `[h, w]`, or `[..., h, w, c]`. Raises `DataError`."""
    if value.ndim < 2:
        raise DataError(f"{kind} changes images; this array has shape {value.shape}")
    return (0, 1) if value.ndim == 2 else (value.ndim - 3, value.ndim - 2)

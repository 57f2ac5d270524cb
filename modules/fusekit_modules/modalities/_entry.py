"""What modalities that stand in a batch share: the base spec, and checks of raw rows."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from fusekit.component import Count, ModalitySpec
from fusekit.config.reference import Reference
from fusekit.errors import DataError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Longer = Literal["error", "cut"]
Collated = tuple[np.ndarray, np.ndarray | None]


class EntrySpec(ModalitySpec):
    """A modality whose contents come from data, and so no view."""

    @field_validator("of")
    @classmethod
    def _no_view(cls, of: Reference | None) -> None:
        if of is not None:
            raise ValueError("this type holds data; a view is a type such as mask_tokens")


class RaggedSpec(EntrySpec):
    """A modality whose rows may be shorter than declared: they are padded, and a mask travels."""

    length: Count = Field(description="positions of a row, after padding")
    padded: bool = Field(True, description="rows may be shorter; if false, all have this length")
    longer: Longer = Field("error", description="what to do with longer rows")

    def pad(self, rows: list[np.ndarray], shape: tuple[int, ...]) -> Collated:
        """Rows `[n, *shape]` of any n as `[b, length, *shape]`, and where they hold something."""
        return pad(rows, self.length, shape, padded=self.padded, longer=self.longer)


def pad(
    rows: list[np.ndarray], length: int, shape: tuple[int, ...], *, padded: bool, longer: Longer
) -> Collated:
    """Rows `[n, *shape]` of any n as `[b, length, *shape]`, and where they hold something.

    Raises `DataError` for a row that is longer, or shorter where nothing is padded.
    """
    dtype = rows[0].dtype if rows else np.float32
    values = np.zeros((len(rows), length, *shape), dtype)
    mask = np.zeros((len(rows), length), bool)
    for index, row in enumerate(rows):
        count = len(row)
        if (count > length and longer == "error") or (count < length and not padded):
            bound = "at most " if padded else ""
            raise misfit(index, f"{count} positions", f"{bound}{length} (length)")
        values[index, :count] = row[:length]
        mask[index, :count] = True
    return values, mask if padded else None


def misfit(index: int, found: object, expected: object) -> DataError:
    """The error for a row that does not fit."""
    return DataError(f"row {index} does not fit: found {found}, expected {expected}")


def as_floats(row: Any, index: int, expected: str) -> Floats:
    """A raw row as finite float32 numbers. Raises `DataError`, naming the row."""
    try:
        array = np.asarray(row)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32) if array.dtype.kind in "biuf" else _numbers(array)
    except (TypeError, ValueError):
        raise misfit(index, describe(row), expected) from None
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)]
        found = f"{bad.size} value{'s' if bad.size > 1 else ''} such as {bad.flat[0]}"
        raise misfit(index, found, "finite numbers in float32 (None is an absent row)")
    return array


def _numbers(array: np.ndarray) -> Floats:
    """Refuses text, which NumPy would parse."""
    if array.dtype.kind != "O" or any(
        item is None or isinstance(item, str | bytes) for item in array.flat
    ):
        raise TypeError("not numbers")
    return array.astype(np.float32)


def as_codes(row: Any, index: int, count: int, expected: str) -> Ints:
    """A raw row of any shape as integers from 0 to count - 1. Whole floats pass."""
    try:
        array = np.asarray(row)
        if array.size == 0:
            return np.zeros(array.shape, np.int32)
        if array.dtype.kind not in "biuf":
            array = _numbers(array)
    except (TypeError, ValueError):
        raise misfit(index, describe(row), expected) from None
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array % 1 == 0).all()):
        raise misfit(index, describe(row), expected)
    outside = array[(array < 0) | (array >= count)]
    if outside.size:
        raise misfit(index, f"the code {outside.flat[0]}", f"codes from 0 to {count - 1}")
    return array.astype(np.int32)


def check_shape(array: np.ndarray, index: int, shape: tuple[int | None, ...]) -> None:
    """Raises `DataError` unless the shape is this one; `None` stands for any size."""
    fits = array.ndim == len(shape) and all(
        size in (None, found) for found, size in zip(array.shape, shape, strict=True)
    )
    if not fits:
        due = ", ".join("any" if size is None else str(size) for size in shape)
        raise misfit(index, f"shape {array.shape}", f"shape ({due})")


def stacked(rows: Sequence[Any], one: Callable[[Any, int], np.ndarray], empty: Any) -> np.ndarray:
    """Applies `one(row, index)` to each row and stacks; without rows `empty`, of no row."""
    return np.stack([one(row, index) for index, row in enumerate(rows)]) if rows else empty


def describe(row: Any) -> str:
    """A raw value in a few words."""
    if isinstance(row, np.ndarray):
        return f"an array of {row.dtype}, shape {row.shape}"
    text = repr(row)
    return f"{type(row).__name__} {text if len(text) <= 40 else text[:37] + '...'}"

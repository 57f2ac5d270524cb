"""Numbers of JSON as arrays. Types and sizes are looked at before NumPy sees them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.errors import Problem
from fusekit.export.serve.faults import cut

LEAVES = {"float32": ({int, float}, "numbers"), "int32": ({int}, "whole numbers")}
LEAVES["bool"] = ({bool}, "true or false")


class Misfit(Exception):  # noqa: N818 - the problem is what matters, and never leaves the package
    """A value that is not what an input takes."""

    def __init__(
        self,
        message: str,
        found: object = "",
        expected: object = "",
        nearest: tuple[str, ...] = (),
        path: tuple[str | int, ...] = (),
    ):
        super().__init__(message)
        self.problem = Problem(path, message, cut(found), str(expected), nearest)


def numbers(
    value: Any, shape: tuple[int, ...], dtype: str, *, ragged: bool = False
) -> NDArray[Any]:
    """Nested lists of numbers as an array of this shape and dtype.

    Args:
      value: as JSON has it.
      shape: without the batch.
      dtype: float32, int32 or bool.
      ragged: whether the first axis may be shorter.

    Raises:
      Misfit: with the place where it does not fit.
    """
    _check(value, shape, dtype, ragged, ())
    due = LEAVES[dtype][1]
    try:
        wide = np.array(value, {"float32": np.float64, "int32": np.int64}.get(dtype, bool))
    except OverflowError:
        raise Misfit("holds a number that is too large", expected=f"{due} of {dtype}") from None
    wide = wide.reshape(-1, *shape[1:]) if ragged else wide.reshape(shape)
    with np.errstate(over="ignore"):
        narrow = wide.astype(dtype)
    if dtype == "float32" and not np.isfinite(narrow).all():
        raise Misfit("holds a number that is too large", expected="finite numbers of float32")
    if dtype == "int32" and not np.array_equal(narrow, wide):
        raise Misfit("holds a number that is too large", expected="whole numbers of int32")
    return narrow


def _check(
    value: Any, shape: Sequence[int], dtype: str, ragged: bool, path: tuple[int, ...]
) -> None:
    leaves, due = LEAVES[dtype]
    if not shape:
        if type(value) not in leaves:
            raise Misfit("is no such value", _kind(value), due.removesuffix("s"), path=path)
        return
    sizes = ", ".join(map(str, shape))
    if not isinstance(value, list):
        raise Misfit("is no list", _kind(value), f"{due} of shape ({sizes})", path=path)
    if len(value) > shape[0] or (len(value) < shape[0] and not ragged):
        most = "at most " if ragged else ""
        raise Misfit("has another length", len(value), f"{most}{shape[0]}", path=path)
    if len(shape) > 1:
        for k, each in enumerate(value):
            _check(each, shape[1:], dtype, False, (*path, k))
        return
    if not set(map(type, value)) <= leaves:
        k, bad = next((k, v) for k, v in enumerate(value) if type(v) not in leaves)
        raise Misfit("is no such value", _kind(bad), due.removesuffix("s"), path=(*path, k))


def cell(value: Any, categories: int, field: str | int) -> float:
    """A field of a table: a number, or the code of one of so many categories. Raises `Misfit`."""
    if type(value) not in (int, float):
        raise Misfit("is no such value", _kind(value), "number or null", path=(field,))
    if categories and (value != value // 1 or not 0 <= value < categories):
        raise Misfit("is no code of this field", value, f"0 to {categories - 1}", path=(field,))
    with np.errstate(over="ignore"):
        try:
            number = np.float32(value)
        except OverflowError:
            number = np.float32(np.inf)
    if not np.isfinite(number):
        raise Misfit("is too large", expected="a finite number of float32", path=(field,))
    return float(number)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "null" if value is None else "a number with a fraction")

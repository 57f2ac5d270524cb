"""How classes are declared: by number, or by name."""

from typing import Annotated, Any

from pydantic import AfterValidator

from fusekit.component import Count
from fusekit.errors import nearest
from fusekit_modules.modalities._entry import as_codes, misfit


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError("names are given once each, and there is at least one")
    return names


Classes = Count | Annotated[tuple[str, ...], AfterValidator(_distinct)]
"""A number of classes, or their names in order."""


def names_of(classes: int | tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes that were declared by name; none if by number."""
    return () if isinstance(classes, int) else classes


def count_of(classes: int | tuple[str, ...]) -> int:
    """How many classes were declared."""
    return classes if isinstance(classes, int) else len(classes)


def code_of(value: Any, index: int, classes: int | tuple[str, ...]) -> int:
    """The number of a class that a row gives by number, or by name where there are names.

    Raises `DataError`, naming the row and the names that resemble what was found.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str) and not isinstance(classes, int):
        if value not in classes:
            close = nearest(value, classes)
            known = f"one of {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise misfit(index, repr(str(value)), known + hint)
        return classes.index(value)
    code = as_codes(value, index, count_of(classes), "the number of a class")
    if code.ndim and code.size != 1:
        raise misfit(index, f"shape {code.shape}", "one class")
    return int(code.reshape(()))

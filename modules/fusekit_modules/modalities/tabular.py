"""Tables: fields of which any may be missing."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from fusekit.component import register
from fusekit.errors import nearest
from fusekit.stream import Signature
from fusekit_modules.modalities._classes import Classes, code_of, count_of
from fusekit_modules.modalities._entry import Collated, EntrySpec, describe, misfit

_EXACT = 2**24
"""Codes below this are exact in float32."""


@register
class TabularSpec(EntrySpec):
    """A record as a table `[field]` in float32: first the numbers, then codes of the categories.

    A row is a mapping from names to values, or a sequence in the order of the fields. Each field
    may be missing by itself: None, NaN or a name left out makes its mask false. A row whose fields
    are all missing is present all the same; a record that is not there at all is an absent row.
    """

    type: Literal["tabular"] = "tabular"
    numeric: tuple[str, ...] = Field((), description="names of the numeric fields")
    categorical: dict[str, Classes] = Field(
        default_factory=dict, description="by name, how many categories or their values"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"numeric": ["age", "mass"], "categorical": {"ward": 3, "sex": ["f", "m"]}},
            {"numeric": ["age"]},
        ]

    @model_validator(mode="after")
    def _fields(self) -> "TabularSpec":
        names = (*self.numeric, *self.categorical)
        if not names or len(set(names)) < len(names):
            raise ValueError("a table has fields, and each name stands for one")
        if any(count_of(categories) > _EXACT for categories in self.categorical.values()):
            raise ValueError(f"a field has at most {_EXACT} categories")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Fields in the order in which they stand in a row."""
        return (*self.numeric, *self.categorical)

    def signature(self) -> Signature:
        counts = [count_of(categories) for categories in self.categorical.values()]
        return Signature(
            (("field", len(self.names)),),
            padded=True,
            optional=self.optional,
            names=self.names,
            cardinalities=(*(0 for _ in self.numeric), *counts),
        )

    def collate(self, rows: list[Any]) -> Collated:
        """Values `[b, field]`, and the mask `[b, field]` of the fields known."""
        values = np.zeros((len(rows), len(self.names)), np.float32)
        mask = np.zeros(values.shape, bool)
        for index, row in enumerate(rows):
            for field, value in enumerate(self._ordered(row, index)):
                if not _missing(value):
                    values[index, field] = self._value(self.names[field], value, index)
                    mask[index, field] = True
        return values, mask

    def _ordered(self, row: Any, index: int) -> list[Any]:
        if isinstance(row, Mapping):
            for name in row:
                if name not in self.names:
                    close = nearest(str(name), self.names)
                    hint = f"; did you mean {', '.join(close)}?" if close else ""
                    raise misfit(index, f"the field {name!r}", ", ".join(self.names) + hint)
            return [row.get(name) for name in self.names]
        if isinstance(row, Sequence | np.ndarray) and not isinstance(row, str | bytes):
            if len(row) != len(self.names):
                raise misfit(index, f"{len(row)} fields", f"{len(self.names)}: {self.names}")
            return list(row)
        raise misfit(index, describe(row), "a mapping from fields to values, or a sequence")

    def _value(self, name: str, value: Any, index: int) -> float:
        try:
            if name in self.categorical:
                return code_of(value, index, self.categorical[name])
            if isinstance(value, str | bytes):
                raise TypeError
            with np.errstate(over="ignore"):
                number = np.float32(value)
        except (TypeError, ValueError):
            raise misfit(index, f"{name} = {describe(value)}", "a number") from None
        except Exception as error:
            error.add_note(f"in the field {name}")
            raise
        if not np.isfinite(number):
            raise misfit(index, f"{name} = {value}", "a finite number, or None for unknown")
        return float(number)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))

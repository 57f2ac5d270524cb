"""A class for each token."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import register
from fusekit.stream import Signature, Span
from fusekit_modules.modalities._classes import Classes, code_of, count_of, names_of
from fusekit_modules.modalities._entry import (
    Collated,
    RaggedSpec,
    as_codes,
    check_shape,
    describe,
    misfit,
)


@register
class TokenLabelsSpec(RaggedSpec):
    """The class of each position of a sequence, `[time]`.

    A row is a sequence of classes by number or name. Positions whose class is not known (-1 or
    None) are masked as padding is, and count in no loss.
    """

    type: Literal["token_labels"] = "token_labels"
    classes: Classes = Field(description="how many classes there are, or their names")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"classes": 3, "length": 5}, {"classes": ["out", "begin", "in"], "length": 4}]

    def signature(self) -> Signature:
        return Signature(
            (("time", self.length),),
            dtype="int",
            spans=(Span("", self.length),),
            padded=True,
            optional=self.optional,
            classes=count_of(self.classes),
            names=names_of(self.classes),
        )

    def collate(self, rows: list[Any]) -> Collated:
        """Classes `[b, length]` in int32 and the mask `[b, length]` of those known."""
        values, mask = self.pad([self._one(row, index) for index, row in enumerate(rows)], ())
        known = values >= 0
        values = values.astype(np.int32)
        return np.where(known, values, 0), known if mask is None else mask & known

    def _one(self, row: Any, index: int) -> np.ndarray:
        if isinstance(row, np.ndarray) and row.dtype.kind in "iu":
            count = count_of(self.classes)
            codes = as_codes(row.astype(np.int64) + 1, index, count + 1, "classes") - 1
        elif isinstance(row, Sequence | np.ndarray) and not isinstance(row, str | bytes):
            codes = np.asarray([self._code(item, index) for item in row], np.int32)
        else:
            raise misfit(index, describe(row), "a sequence of classes")
        check_shape(codes, index, (None,))
        return codes

    def _code(self, item: Any, index: int) -> int:
        unknown = item is None or (not isinstance(item, str | bytes) and item == -1)
        return -1 if unknown else code_of(item, index, self.classes)

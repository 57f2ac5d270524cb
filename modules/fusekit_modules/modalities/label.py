"""Class labels."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import register
from fusekit.stream import Signature
from fusekit_modules.modalities._classes import Classes, code_of, count_of, names_of
from fusekit_modules.modalities._entry import Collated, EntrySpec


@register
class LabelSpec(EntrySpec):
    """One class of several, as a scalar integer.

    A row is the class by number, or by name if names are declared.
    """

    type: Literal["label"] = "label"
    classes: Classes = Field(description="how many classes there are, or their names")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"classes": 3}, {"classes": ["cat", "dog"]}]

    def signature(self) -> Signature:
        return Signature(
            (),
            dtype="int",
            optional=self.optional,
            classes=count_of(self.classes),
            names=names_of(self.classes),
        )

    def collate(self, rows: list[Any]) -> Collated:
        """Classes `[b]` in int32; no mask."""
        codes = [code_of(row, index, self.classes) for index, row in enumerate(rows)]
        return np.asarray(codes, np.int32), None

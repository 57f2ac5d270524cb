"""Labels of which several may hold."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import register
from fusekit_modules.heads._readout import VectorReadoutSpec
from fusekit_modules.modalities._classes import Classes, count_of, names_of


@register
class MultilabelSpec(VectorReadoutSpec):
    """Logits of labels each of which may hold or not: a vector `[classes]`."""

    link = "sigmoid"
    type: Literal["multilabel"] = "multilabel"
    classes: Classes = Field(description="how many labels there are, or their names")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x", "classes": 3}, {"input": "x", "classes": ["cat", "dog"]}]

    def out_width(self) -> int:
        return count_of(self.classes)

    def names(self) -> tuple[str, ...]:
        return names_of(self.classes)

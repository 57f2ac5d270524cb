"""Classification of a sample."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import register
from fusekit_modules.heads._readout import VectorReadoutSpec
from fusekit_modules.modalities._classes import Classes, count_of, names_of


@register
class ClassifierSpec(VectorReadoutSpec):
    """Logits of classes of which one holds: a vector `[classes]`."""

    link = "softmax"
    defers = True
    type: Literal["classifier"] = "classifier"
    classes: Classes = Field(description="how many classes there are, or their names")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"input": "x", "classes": 3},
            {"input": "x", "classes": ["cat", "dog"], "hidden": 5, "dropout": 0.1},
            {"input": "x", "classes": 3, "init": "zeros", "bias": False},
        ]

    def out_width(self) -> int:
        return count_of(self.classes)

    def names(self) -> tuple[str, ...]:
        return names_of(self.classes)

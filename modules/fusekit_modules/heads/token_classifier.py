"""Classification of each token."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import register
from fusekit_modules.heads._readout import TokenReadoutSpec
from fusekit_modules.modalities._classes import Classes, count_of, names_of


@register
class TokenClassifierSpec(TokenReadoutSpec):
    """Logits of classes for each token: a sequence `[time, classes]`.

    With `classes` the size of a vocabulary it predicts words. Learned readout tokens get none.
    """

    link = "softmax"
    defers = True
    type: Literal["token_classifier"] = "token_classifier"
    classes: Classes = Field(description="how many classes there are, or their names")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x", "classes": 3}, {"input": "x", "classes": ["in", "out"], "hidden": 5}]

    def out_width(self) -> int:
        return count_of(self.classes)

    def names(self) -> tuple[str, ...]:
        return names_of(self.classes)

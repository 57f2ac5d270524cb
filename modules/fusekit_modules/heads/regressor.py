"""Regression of a sample."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import Width, register
from fusekit_modules.heads._readout import VectorReadoutSpec


@register
class RegressorSpec(VectorReadoutSpec):
    """Real numbers: a vector `[width]`. Of width one, it goes with a scalar target too."""

    type: Literal["regressor"] = "regressor"
    width: Width = Field(1, description="how many numbers")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x"}, {"input": "x", "width": 4, "hidden": 6, "activation": "relu"}]

    def out_width(self) -> int:
        return self.width

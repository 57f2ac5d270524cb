"""Projection into a common space."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit_modules.heads._readout import Readout, VectorReadoutSpec


@register
class ProjectionSpec(VectorReadoutSpec):
    """A vector `[width]` of length one, to be compared with others (Radford et al. 2021)."""

    type: Literal["projection"] = "projection"
    width: Width = Field(description="size of the common space")
    normalise: bool = Field(True, description="whether vectors get length one")
    bias: bool = Field(False, description="whether the last map adds one")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x", "width": 4}, {"input": "x", "width": 3, "normalise": False}]

    def out_width(self) -> int:
        return self.width

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> Readout:
        return Readout(self, inputs["input"].width, normalise=self.normalise, rngs=rngs)

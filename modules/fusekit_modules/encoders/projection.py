"""One affine map."""

from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import EncoderSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Signature, Stream
from fusekit_modules.encoders.mlp import as_features, infer_width, input_width
from fusekit_modules.layers.entry import only
from fusekit_modules.layers.linear import Linear


@register
class ProjectionSpec(EncoderSpec):
    """One affine map of the last axis: vectors, numbers, tables, or every token alike."""

    type: Literal["projection"] = "projection"
    width: Width = Field(description="size of the last axis going out")
    bias: bool = Field(True, description="add a learned constant")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 4}, {"width": 4, "bias": False}]

    def infer(self, inputs: Signatures) -> Signature:
        return infer_width(only(inputs), self.width)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Projection":
        self.infer(inputs)
        return Projection(self, only(inputs), rngs=rngs)


class Projection(nnx.Module):
    """See `ProjectionSpec`."""

    def __init__(self, spec: ProjectionSpec, given: Signature, *, rngs: nnx.Rngs):
        self.given = given
        axes = ("features", "embed")
        self.proj = Linear(input_width(given), spec.width, axes=axes, bias=spec.bias, rngs=rngs)

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = as_features(only(streams), self.given, context=context)
        return stream.with_(values=self.proj(stream.values))

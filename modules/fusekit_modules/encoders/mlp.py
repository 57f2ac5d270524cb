"""A multi-layer perceptron."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Depth, EncoderSpec, Rate, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.entry import only
from fusekit_modules.layers.features import as_vector, vector_width
from fusekit_modules.layers.linear import Linear


def infer_width(given: Signature, width: int) -> Signature:
    """The same stream with another last axis; a number or a table becomes a vector. Raises
    `WiringError` for codes."""
    if given.dtype != "float" and given.kind != "table":
        raise WiringError(
            "codes where numbers are due",
            found=given,
            expected="numbers: embed codes with an encoder of type embed",
            field=("input",),
        )
    if given.kind in ("scalar", "table"):
        return Signature((("embed", width),), optional=given.optional)
    if given.axes == ("time",):
        sizes = (*given.sizes, ("embed", width))
    else:
        sizes = (*given.sizes[:-1], (given.sizes[-1][0], width))
    return given.with_(sizes=sizes, names=(), classes=None)


def input_width(given: Signature) -> int:
    """Size of the last axis of what `as_features` gives."""
    if given.kind == "table":
        return vector_width(given)
    return 1 if given.kind == "scalar" or given.axes == ("time",) else given.width


def as_features(stream: Stream, given: Signature, *, context: Context) -> Stream:
    """The stream with a feature axis last, cleaned."""
    stream = stream.clean()
    if given.kind == "table":
        values = as_vector(stream, given, context=context)
        return Stream(values, presence=stream.presence)
    if given.kind == "scalar" or given.axes == ("time",):
        return stream.with_(values=jnp.expand_dims(stream.values, -1))
    return stream


@register
class MlpSpec(EncoderSpec):
    """Multi-layer perceptron over the last axis: vectors, numbers, tables, or every token alike.

    Layers are affine maps with the activation between them, not after the last. Of a table,
    categories enter as indicators, and where fields may be missing, an indicator for each known
    one stands beside the values.
    """

    type: Literal["mlp"] = "mlp"
    width: Width = Field(description="size of the last axis going out")
    hidden: Width | None = Field(None, description="size in between; default the width")
    depth: Depth = Field(2, description="affine layers, the last included")
    activation: ActivationName = Field("relu", description="between the layers")
    dropout: Rate = Field(0.0, description="after every activation")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 8}, {"width": 4, "depth": 1}, {"width": 4, "hidden": 6, "dropout": 0.5}]

    def infer(self, inputs: Signatures) -> Signature:
        return infer_width(only(inputs), self.width)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Mlp":
        self.infer(inputs)
        return Mlp(self, only(inputs), rngs=rngs)


class Mlp(nnx.Module):
    """See `MlpSpec`."""

    def __init__(self, spec: MlpSpec, given: Signature, *, rngs: nnx.Rngs):
        self.spec, self.given = spec, given
        hidden = spec.hidden or spec.width
        sizes = [input_width(given), *[hidden] * (spec.depth - 1), spec.width]
        names = ["features", *["mlp"] * (spec.depth - 1), "embed"]
        self.layers = nnx.List(
            [
                Linear(a, b, axes=(m, None if m == n else n), rngs=rngs)
                for a, b, m, n in zip(sizes, sizes[1:], names, names[1:], strict=False)
            ]
        )

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = as_features(only(streams), self.given, context=context)
        x = stream.values
        for index, layer in enumerate(self.layers):
            if index:
                x = activation(self.spec.activation)(x)
                x = dropout(x, self.spec.dropout, context=context, purpose=f"dropout.{index}")
            x = layer(x)
        return stream.with_(values=x)

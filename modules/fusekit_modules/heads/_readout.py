"""What heads share: the fields of a readout, and its module."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import HeadSpec, Outputs, Rate, Signatures, Width
from fusekit.context import Context
from fusekit.deferred import Deferred
from fusekit.stream import Stream, vector
from fusekit_modules.heads._tokens import data_signature, data_tokens
from fusekit_modules.heads._unmade import unmade
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.expect import expect_sequence, expect_vector
from fusekit_modules.layers.linear import KERNEL, Linear

FIELD = ("input",)


class ReadoutSpec(HeadSpec):
    """A linear map of features, with a hidden layer if asked for.

    A subclass says how wide the output is. What comes out is present where the input is.
    """

    hidden: Width | None = Field(None, description="width of a hidden layer; default none")
    activation: ActivationName = Field("gelu", description="after the hidden layer")
    dropout: Rate = Field(0.0, description="share of features dropped before the last map")
    bias: bool = Field(True, description="whether the last map adds one")
    init: Literal["normal", "zeros"] = Field(
        "normal", description="of the last kernel; zeros makes the first output the bias"
    )

    def out_width(self) -> int:
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        return ()

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Readout":
        return Readout(self, inputs["input"].width, rngs=rngs)


class VectorReadoutSpec(ReadoutSpec):
    """A readout of vectors."""

    def infer(self, inputs: Signatures) -> Outputs:
        """A vector. Raises `WiringError` if the input is none."""
        given = expect_vector(inputs["input"], "input", field=FIELD)
        return vector(self.out_width(), optional=given.optional).with_(names=self.names())


class TokenReadoutSpec(ReadoutSpec):
    """A readout of each token of a sequence; learned readout tokens are left out."""

    def infer(self, inputs: Signatures) -> Outputs:
        """A sequence. Raises `WiringError` if the input is none."""
        given = data_signature(expect_sequence(inputs["input"], "input", field=FIELD))
        sizes = (("time", given.length), ("embed", self.out_width()))
        return given.with_(sizes=sizes, names=self.names())


class Readout(nnx.Module):
    """`[b, d] -> [b, o]`, or `[b, t, d] -> [b, t', o]` for the t' tokens that are data.

    With `normalise`, outputs get length one.
    """

    def __init__(self, spec: ReadoutSpec, width: int, *, normalise: bool = False, rngs: nnx.Rngs):
        self.activation: ActivationName = spec.activation
        self.rate, self.normalise = spec.dropout, normalise
        self.hidden = (
            None
            if spec.hidden is None
            else Linear(width, spec.hidden, axes=("embed", "mlp"), rngs=rngs)
        )
        self.out = Linear(
            spec.hidden or width,
            spec.out_width(),
            axes=("embed" if spec.hidden is None else "mlp", None),
            bias=spec.bias,
            init=nnx.initializers.zeros if spec.init == "zeros" else KERNEL,
            rngs=rngs,
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        features = self._features(streams["input"], context)
        values = self.out(features.values)
        return features.with_(values=unit(values) if self.normalise else values).clean()

    def deferred(self, streams: dict[str, Stream], *, context: Context) -> Stream | Deferred:
        """The values, or what they are made of where there are many; not with `normalise`."""
        axes = ("embed", None)
        return unmade(self.out, axes, self._features(streams["input"], context), context)

    def _features(self, given: Stream, context: Context) -> Stream:
        given = data_tokens(given).clean()
        x = given.values
        if self.hidden is not None:
            x = activation(self.activation)(self.hidden(x))
        return given.with_(values=dropout(x, self.rate, context=context))


def unit(values: Float[Array, "*b d"], epsilon: float = 1e-12) -> Float[Array, "*b d"]:
    """Vectors of length one along the last axis; zeros stay zeros, with finite gradients."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    square = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    safe = jnp.where(square > epsilon, square, 1.0)
    return jnp.where(square > epsilon, wide / jnp.sqrt(safe), 0.0).astype(values.dtype)

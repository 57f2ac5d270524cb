"""Concatenation."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import FusionSpec, Outputs, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Stream, concatenate, concatenate_signatures, vector
from fusekit_modules.fusion._present import choose, emit, read
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence, expect_vector


@register
class ConcatSpec(FusionSpec):
    """Lays vectors side by side (`channel`), or sequences one after another (`sequence`).

    An absent vector is zeros (`mask`) or a learned vector in its place (`learned`). The tokens of
    an absent sequence become padding. Followed by a trunk, `sequence` is early fusion.
    """

    type: Literal["concat"] = "concat"
    axis: Literal["channel", "sequence"] = Field("channel", description="along which axis")
    absent: Literal["mask", "learned"] = Field("mask", description="what stands for the absent")

    def infer(self, inputs: Signatures) -> Outputs:
        """Widths (lengths) add up. Raises `WiringError` if the inputs do not go together."""
        expect_count(inputs)
        optional = all(signature.optional for signature in inputs.values())
        if self.axis == "channel":
            widths = [expect_vector(signature, role).width for role, signature in inputs.items()]
            return vector(sum(widths), optional=optional)
        if self.absent == "learned":
            raise WiringError("absent tokens are padding", expected="mask", field=("absent",))
        sequences = {role: expect_sequence(signature, role) for role, signature in inputs.items()}
        expect_same(sequences, "embed", hint="one width: give the encoders the same")
        return concatenate_signatures(list(sequences.values()))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Concat":
        return Concat(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"absent": "learned"}, {"axis": "sequence"}]


class Concat(nnx.Module):
    """`[b, d_k] -> [b, sum(d_k)]`, or `[b, t_k, d] -> [b, sum(t_k), d]`."""

    def __init__(self, spec: ConcatSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.axis, init = spec.axis, initializers.normal(0.02)
        self.missing = nnx.Dict()
        """By the number of the input, so that one's name does not depend on the others."""
        for index, signature in enumerate(inputs.values()):
            if signature.optional and spec.absent == "learned":
                vector_of = parameter(rngs, init, (signature.width,), ("embed",))
                self.missing[str(index)] = vector_of

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        if self.axis == "sequence":
            return concatenate([stream.clean() for stream in streams.values()])
        values, present = read(streams)
        for index, value in enumerate(values):
            if str(index) in self.missing:
                instead = self.missing[str(index)][...].astype(value.dtype)
                values[index] = choose(present[:, index], value, instead)
        return emit(jnp.concatenate(values, axis=1), streams.values())

"""Scales and biases of a stack's norms that are made from other streams."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, OperatorSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Edit, NormDelta, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._labels import Sublayer, hook_names
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.expect import expect_count, expect_sequence, expect_vector
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.positions import sinusoidal

PER_UNIT = 1000.0


@register
class ModulationSpec(OperatorSpec):
    """norm(x) (s + u) + (b + v), with (u, v) = W f(y) of other streams: FiLM (Perez et al. 2018),
    adaptive norms (Peebles 2023, section 3.2, without the gates), LaVi's deltas of tokens.

    y is a vector; or a number, such as a time from 0 to 1, that becomes sines of 1000 times it;
    or a sequence as long as the stream, with a delta for each token. Those of several inputs add.
    W starts at zero. An absent y has a delta of exactly zero.
    """

    uniform = True
    needs = frozenset({"norm"})
    type: Literal["modulation"] = "modulation"
    sublayers: tuple[Sublayer, ...] = Field(
        ("attention", "feed_forward"), min_length=1, description="whose norms"
    )
    hidden: Width | None = Field(None, description="a layer of this width before f; default none")
    activation: ActivationName = Field("silu", description="f; identity for FiLM")
    frequencies: Count = Field(64, description="of a number's sines and cosines together")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for inputs that are none of the three."""
        expect_count(reads)
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
        for role, read in reads.items():
            if read.kind == "scalar" and read.dtype == "float":
                continue
            if read.kind != "sequence":
                expect_vector(read, role)
                continue
            expect_sequence(read, role)
            lengths = {stream.length for stream in streams}
            if lengths != {read.length}:
                raise WiringError(
                    "a sequence modulates a stream of as many tokens",
                    found=f"{role} {read.length}, into {', '.join(map(str, sorted(lengths)))}",
                    expected="as many tokens, or a vector such as .mean",
                    field=("inputs", role),
                )
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return Modulation(self, streams, reads, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"hidden": 4, "sublayers": ["attention"], "activation": "gelu"}]


class Deltas(nnx.Module):
    """W f(y), or W f(V y + c): of one input, for one stream."""

    def __init__(self, spec: ModulationSpec, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.activation: ActivationName = spec.activation
        hidden, axes = spec.hidden, ("features", "mlp")
        self.first = None if hidden is None else Linear(inputs, hidden, axes=axes, rngs=rngs)
        shape = (hidden or inputs, outputs)
        self.last = parameter(rngs, initializers.zeros, shape, ("mlp", None))

    def __call__(self, y: Float[Array, "b *t e"]) -> Float[Array, "b *t o"]:
        y = y if self.first is None else self.first(y)
        return activation(self.activation)(y) @ self.last[...].astype(y.dtype)


class Modulation(Operator):
    """The maps of one place, by stream and input."""

    def __init__(
        self,
        spec: ModulationSpec,
        streams: tuple[Signature, ...],
        reads: Signatures,
        *,
        rngs: nnx.Rngs,
    ):
        self.frequencies, self.names = spec.frequencies, hook_names(spec.sublayers)
        sizes = [read.width if read.sizes else spec.frequencies for read in reads.values()]
        count = 2 * len(self.names)
        self.maps = nnx.List(
            nnx.List([Deltas(spec, size, count * stream.width, rngs=rngs) for size in sizes])
            for stream in streams
        )

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        edits = []
        given = [read.clean() for read in reads.values()]
        for stream, maps in zip(streams, self.maps, strict=True):
            dtype = stream.values.dtype
            found = [self.delta(y, f, dtype) for y, f in zip(given, maps, strict=True)]
            whole = reduce(together, found)
            parts = jnp.split(whole, 2 * len(self.names), axis=-1)
            pairs = zip(parts[::2], parts[1::2], strict=True)
            deltas = [NormDelta(scale, bias) for scale, bias in pairs]
            edits.append(Edit(norm=dict(zip(self.names, deltas, strict=True))))
        return tuple(edits), state

    def delta(self, y: Stream, deltas: Deltas, dtype: Any) -> Float[Array, "b *t o"]:
        """What one input asks for; zeros where it is absent or padded."""
        values = y.values
        if values.ndim == 1:
            values = sinusoidal(PER_UNIT * values, self.frequencies, dtype=values.dtype)
        out = deltas(values.astype(dtype))
        valid = y.valid() if values.ndim == 3 else y.presence
        if valid is None:
            return out
        return jnp.where(valid[..., None], out, jnp.zeros((), out.dtype))


def together(one: Array, other: Array) -> Array:
    """The sum; deltas of samples are given to every token where the other's are of tokens."""
    if one.ndim != other.ndim:
        one, other = (x[:, None] if x.ndim == 2 else x for x in (one, other))
    return one + other

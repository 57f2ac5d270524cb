"""Bottleneck fusion."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.layered import Edit, LayerOutput, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Span, Stream, presence_matrix
from fusekit_modules.fusion._present import choose, masked_mean
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence


@register
class BottleneckSpec(OperatorSpec):
    """A few shared tokens through which stacks in lockstep exchange: MBT (Nagrani 2021, eqs. 8-9).

    At each place every stream runs its layer with the same tokens after its own, and the next
    tokens are the mean of what came of them. An absent stream is skipped: it has no part in the
    mean. The last tokens are dropped.
    """

    needs = frozenset({"tokens"})
    reads_inputs = False
    type: Literal["bottleneck"] = "bottleneck"
    tokens: Count = Field(4, description="how many tokens")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` unless two or more, of one width."""
        by_role = {f"into {number}": stream for number, stream in enumerate(streams)}
        expect_count(by_role, least=2)
        for role, stream in by_role.items():
            expect_sequence(stream, role, field=("into",))
        expect_same(by_role, "embed", hint="stacks of one width", field=("into",))
        return streams

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> "Bottleneck":
        return Bottleneck(self.tokens, streams[0].width, rngs=rngs)


class Bottleneck(Operator):
    """The learned first tokens `[n, d]`; the state is the running ones `[b, n, d]`."""

    def __init__(self, count: int, width: int, *, rngs: nnx.Rngs):
        init = initializers.normal(0.02)
        self.tokens = parameter(rngs, init, (count, width), (None, "embed"))
        self.spans = (Span("bottleneck", count),)

    def begin(
        self, streams: tuple[Stream, ...], reads: Reads, *, context: Context
    ) -> Float[Array, "b n d"]:
        tokens = self.tokens[...].astype(streams[0].values.dtype)
        return jnp.broadcast_to(tokens[None], (streams[0].batch, *tokens.shape))

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Float[Array, "b n d"],
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Float[Array, "b n d"]]:
        edit = Edit(tokens=Stream(state, spans=self.spans))
        return tuple(edit for _ in streams), state

    def leave(
        self, outputs: tuple[LayerOutput, ...], reads: Reads, state: Array, *, context: Context
    ) -> tuple[tuple[Stream, ...], Float[Array, "b n d"]]:
        streams = tuple(output.stream for output in outputs)
        after = jnp.stack([e.values for output in outputs for e in output.extras if e], axis=1)
        present = presence_matrix(streams)
        if present is None:
            return streams, jnp.mean(after, axis=1)
        mean = masked_mean(after, present)
        return streams, choose(jnp.any(present, axis=1), mean, state)

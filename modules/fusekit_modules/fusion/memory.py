"""Tokens of other streams as further keys and values of a stack's own attention."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import Branch, Edit, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream, concatenate
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.layers.linear import Linear


@register
class MemorySpec(OperatorSpec):
    """The layers' own attention reads other streams too, projected to the stack's width.

    With a gate, x + attention(x, x) + tanh(g) attention(x, W y), two softmaxes and g from zero:
    LLaMA-Adapter (Zhang et al. 2024, equation 6). Without, one softmax over own tokens and W y, as
    in QA-ViT (Ganz et al. 2024, section 3.2). Absent and padded tokens are not read.
    """

    uniform = True
    needs = frozenset({"keys_values", "residual"})
    type: Literal["memory"] = "memory"
    gate: Literal["none", "tanh"] = Field("tanh", description="see above")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` unless sequences of one width are read."""
        expect_count(reads)
        for role, read in reads.items():
            expect_sequence(read, role)
        expect_same(reads, "embed")
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return Memory(self, streams, reads, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"gate": "none", "share": True}]


class Memory(Operator):
    """The projections and gates of one place, one a stream."""

    def __init__(
        self,
        spec: MemorySpec,
        streams: tuple[Signature, ...],
        reads: Signatures,
        *,
        rngs: nnx.Rngs,
    ):
        source, axes = next(iter(reads.values())).width, ("features", "embed")
        made = [Linear(source, stream.width, axes=axes, rngs=rngs) for stream in streams]
        self.projections = nnx.List(made)
        zeros, gated = initializers.zeros, spec.gate == "tanh"
        self.gates = parameter(rngs, zeros, (len(streams),), (None,)) if gated else None

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[Any],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        """Raises `FusekitError` for layers that cannot read keys and values of others alone."""
        read = concatenate([read.clean() for read in reads.values()])
        edits = []
        for number, (stream, project) in enumerate(zip(streams, self.projections, strict=True)):
            values = project(read.values.astype(stream.values.dtype))
            memory = read.with_(values=values).clean()
            if self.gates is None:
                edits.append(Edit(keys_values=memory))
                continue
            layer, gate = layers[number], jnp.tanh(self.gates[number])
            if not hasattr(layer, "reading"):
                raise FusekitError(f"layers of stack {number} have no `reading` of other tokens")

            def branch(normal: Stream, layer=layer, gate=gate, memory=memory) -> Stream:
                found = layer.reading(normal, [layer.keys_values(memory)], context=context)
                return normal.with_(values=gate.astype(found.dtype) * found)

            edits.append(Edit(residual={"attention": Branch(branch)}))
        return tuple(edits), state

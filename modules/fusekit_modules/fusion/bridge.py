"""Bridges from the layers of one stack to those of another."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from flax import nnx

from fusekit.component import OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Edit, Operator, Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._present import choose
from fusekit_modules.layers.expect import expect_count, expect_sequence
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.norm import LayerNorm


@register
class BridgeSpec(OperatorSpec):
    """norm(x + W y) before each layer: BridgeTower's bridges (Xu et al. 2023, section 3.2).

    y is a stream of as many tokens, such as the layers of the encoder that x came from. A sample
    that lacks y keeps its x.
    """

    type: Literal["bridge"] = "bridge"

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` unless there is one input, of as many
        tokens as each stream."""
        expect_count(reads, least=1, most=1)
        (role, read), *_ = reads.items()
        expect_sequence(read, role, field=("inputs",))
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
            if stream.length != read.length:
                raise WiringError(
                    "the two ends of a bridge differ in length",
                    found=f"{role} {read.length}, into {number} {stream.length}",
                    expected="as many tokens",
                    field=("inputs",),
                )
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return Bridge(streams, reads, rngs=rngs)


class Bridge(Operator):
    """The bridges of one place, one a stream: `x [b, t, d]` and `y [b, t, e]` -> `[b, t, d]`."""

    def __init__(self, streams: Sequence[Signature], reads: Signatures, *, rngs: nnx.Rngs):
        (read,) = reads.values()
        project = partial(Linear, read.width, axes=("features", "embed"), bias=False)
        self.projections = nnx.List([project(stream.width, rngs=rngs) for stream in streams])
        self.norms = nnx.List([LayerNorm(stream.width, rngs=rngs) for stream in streams])

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        (read,) = reads.values()
        y, edits = read.clean().values, []
        for stream, project, norm in zip(streams, self.projections, self.norms, strict=True):
            values = norm(stream.values + project(y).astype(stream.values.dtype))
            if read.presence is not None:
                values = choose(read.presence, values, stream.values)
            edits.append(Edit(stream=stream.with_(values=values)))
        return tuple(edits), state

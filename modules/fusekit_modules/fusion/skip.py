"""Skip connections into the layers of another stack."""

from collections.abc import Sequence
from typing import Any, Literal

from flax import nnx

from fusekit.component import OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.errors import FusekitError, WiringError
from fusekit.layered import Branch, Edit, Operator, Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._present import choose
from fusekit_modules.layers.expect import expect_count
from fusekit_modules.layers.linear import Linear


@register
class SkipSpec(OperatorSpec):
    """x + W y, where a layer has brought x to the size of y: the lateral connections of a feature
    pyramid (Lin et al. 2017, section 3).

    Into a `conv_decoder` it acts after a layer has enlarged its map and before its convolution, so
    y has the size of what that layer gives; into a stack of tokens before the layer, and y has as
    many tokens. A sample that lacks y keeps its x.
    """

    needs = frozenset({"then"})
    type: Literal["skip"] = "skip"

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` unless there is one input, of the kind of
        each stream, and of a size that it can have."""
        expect_count(reads, least=1, most=1)
        ((role, read),) = reads.items()
        for number, stream in enumerate(streams):
            here, there = stream.shape[:-1], read.shape[:-1]
            grid = stream.kind == "grid" == read.kind and len(here) == len(there)
            whole = grid and all(b % a == 0 for a, b in zip(here, there, strict=True))
            if not (whole or (stream.kind == "sequence" == read.kind and here == there)):
                raise WiringError(
                    "a skip has not the size of what it is added to",
                    found=f"{role} {read}, into {number} {stream}",
                    expected="a map as large as what the layer gives, or as many tokens",
                    field=("inputs",),
                )
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return Skip(streams, reads, rngs=rngs)


class Skip(Operator):
    """The skips of one place, one a stream: `x [b, *n, d]` and `y [b, *n, e]` -> `[b, *n, d]`."""

    def __init__(self, streams: Sequence[Signature], reads: Signatures, *, rngs: nnx.Rngs):
        (read,) = reads.values()
        axes = ("features", "embed")
        self.projections = nnx.List(
            [Linear(read.width, s.width, axes=axes, bias=False, rngs=rngs) for s in streams]
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
        (read,), edits = reads.values(), []
        y = read.clean().values
        for stream, project in zip(streams, self.projections, strict=True):

            def add(x: Stream, project=project) -> Stream:
                if x.values.shape[:-1] != y.shape[:-1]:
                    sizes = f"{x.values.shape[1:-1]} and {y.shape[1:-1]}"
                    raise FusekitError(f"a skip and what it is added to differ in size: {sizes}")
                return x.with_(values=project(y).astype(x.values.dtype))

            if stream.values.ndim > 3:
                edits.append(Edit(then={"upsample": Branch(add)}))
                continue
            values = stream.values + add(stream).values
            if read.presence is not None:
                values = choose(read.presence, values, stream.values)
            edits.append(Edit(stream=stream.with_(values=values)))
        return tuple(edits), state

"""Weights of a stack that are made from a stream, sample by sample."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Count, Depth, OperatorSpec, Positive, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Edit, LowRank, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Span, Stream
from fusekit_modules.fusion._present import choose
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.expect import expect_count, expect_sequence
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.projections import AXES, targeted
from fusekit_modules.layers.tower import Tower


@register
class WeightGeneratorSpec(OperatorSpec):
    """x W + (alpha / rank) x A(y) B: VLoRA (Ma et al. 2024, section 3.2), y a stream.

    One transformer over y serves all places. At a place each column of an A is what a learned
    query reads of its output; queries, output maps and B are the place's own, and B starts at
    zero. (In the original the queries of all layers pass through the transformer together.) A
    sample without y has a delta of exactly zero.
    """

    uniform = True
    needs = frozenset({"weights"})
    type: Literal["weight_generator"] = "weight_generator"
    targets: tuple[str, ...] = Field(
        ("attention", "feed_forward"), min_length=1, description="which projections, as in lora"
    )
    rank: Count = Field(8, description="columns of A")
    alpha: Positive | None = Field(None, description="scale times rank; default the rank")
    width: Width = Field(64, description="of the transformer")
    depth: Depth = Field(2, description="layers of the transformer")
    heads: Count = Field(4, description="attention heads; they divide the width")
    absent: Literal["skip"] = Field("skip", description="no delta without y")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` unless one sequence is read, for targets
        that the layers lack, and for heads that do not divide the width."""
        expect_count(reads, least=1, most=1)
        for role, read in reads.items():
            expect_sequence(read, role, field=("inputs",))
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
            targeted(self.targets, stream, f"into {number}")
        if self.width % self.heads:
            message, due = "heads do not divide the width", f"a number that divides {self.width}"
            raise WiringError(message, found=self.heads, expected=due, field=("heads",))
        return streams

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> "Trunk":
        (read,) = reads.values()
        places = Generator(self, streams, rngs=rngs) if self.share else None
        return Trunk(self, read.width, places, rngs=rngs)

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> "Generator":
        return Generator(self, streams, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"rank": 2, "width": 4, "heads": 2, "depth": 1}
        return [small, {**small, "targets": ["feed_forward.up"], "alpha": 4, "share": True}]


class Trunk(Operator):
    """The transformer over y; its output `[b, n, width]` is the state of every place."""

    def __init__(
        self,
        spec: WeightGeneratorSpec,
        width: int,
        places: "Generator | None",
        *,
        rngs: nnx.Rngs,
    ):
        self.proj = Linear(width, spec.width, axes=("features", "embed"), rngs=rngs)
        hidden, depth = 4 * spec.width, spec.depth
        self.tower = Tower(spec.width, spec.heads, depth=depth, hidden=hidden, rngs=rngs)
        self.places = places

    def begin(self, streams: tuple[Stream, ...], reads: Reads, *, context: Context) -> Stream:
        (read,) = (stream.clean() for stream in reads.values())
        projected = Stream(self.proj(read.values), read.mask, read.presence, spans=read.spans)
        return self.tower(projected, context=context).clean()

    def enter(self, streams: Any, reads: Any, state: Any, *, layers: Any, context: Context) -> Any:
        """Where all places share their weights."""
        assert self.places is not None
        return self.places.enter(streams, reads, state, layers=layers, context=context)


class Generator(Operator):
    """What one place makes of the trunk's output, by stream and projection."""

    def __init__(self, spec: WeightGeneratorSpec, streams: Sequence[Signature], *, rngs: nnx.Rngs):
        self.rank, self.scale = spec.rank, (spec.alpha or spec.rank) / spec.rank
        every = [targeted(spec.targets, stream, "the stack") for stream in streams]
        self.names = tuple(tuple(sizes) for sizes in every)
        self.attention = Attention(spec.width, spec.heads, rngs=rngs)
        queries = spec.rank * sum(map(len, every))
        init, axes = initializers.normal(0.02), (None, "embed")
        self.queries = parameter(rngs, init, (queries, spec.width), axes)
        self.maps, self.b = nnx.List(), nnx.List()
        for name, (inputs, outputs) in (item for sizes in every for item in sizes.items()):
            inward, outward = AXES.get(name, ("embed", None))
            axes = ("features", None if inward == "embed" else inward)
            self.maps.append(Linear(spec.width, inputs, axes=axes, bias=False, rngs=rngs))
            zeros = initializers.zeros
            self.b.append(parameter(rngs, zeros, (spec.rank, outputs), (None, outward)))

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Stream,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Stream]:
        queries = self.queries[...].astype(state.values.dtype)
        asked = jnp.broadcast_to(queries, (state.batch, *queries.shape))
        spans = (Span("queries", asked.shape[1]),)
        read = self.attention(Stream(asked, spans=spans), state, context=context)
        if state.presence is not None:
            read = choose(state.presence, read, 0.0)
        edits, at = [], 0
        for names in self.names:
            weights = {}
            for name in names:
                rows = read[:, at * self.rank : (at + 1) * self.rank]
                a = jnp.swapaxes(self.maps[at](rows), 1, 2)
                weights[name] = LowRank(a, self.b[at][...], self.scale)
                at += 1
            edits.append(Edit(weights=weights))
        return tuple(edits), state

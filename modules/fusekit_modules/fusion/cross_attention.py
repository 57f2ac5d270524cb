"""Tokens of a stack read tokens of others."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array
from pydantic import Field

from fusekit.component import Count, OperatorSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Branch, Edit, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.attend import Attend, check_attend
from fusekit_modules.layers.attention import Attention, both, readable
from fusekit_modules.layers.expect import expect_same, expect_sequence
from fusekit_modules.layers.mask_rule import Rule, as_added, described
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import LayerNorm
from fusekit_modules.layers.sight import Sight

S = TypeVar("S", Signature, Stream)


@register
class CrossAttentionSpec(OperatorSpec):
    """x + g attention(norm(x), norm(y)) at each place: between a layer's attention and its
    feed-forward (Vaswani 2017, section 3.1), or before the layer (Flamingo, Alayrac 2022, 2.4).

    y is all of `inputs`, of one width; without any, two or more stacks in lockstep read one
    another as they enter the layer. Absent and padded tokens are not read. What has nothing to
    read, by `attend` or for want of any y, keeps its x.
    """

    needs = frozenset({"then"})
    type: Literal["cross_attention"] = "cross_attention"
    heads: Count = Field(4, description="attention heads")
    act: Literal["inside", "before"] = Field("inside", description="where it acts in the layer")
    gate: Literal["none", "tanh"] = Field(
        "none", description="tanh: a factor for each update that starts at zero"
    )
    hidden: Width | None = Field(None, description="a feed-forward of this width after it")
    attend: Attend | None = Field(None, description="what tokens see of y; default all")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for what is no sequence, for one stack
        without `inputs`, for heads that do not divide a width, and for an `attend` that does not
        fit the labels."""
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
            if stream.width % self.heads:
                expected = f"a number that divides {stream.width}, the width of into {number}"
                message = "heads do not divide the width"
                raise WiringError(message, found=self.heads, expected=expected, field=("heads",))
        for role, read in reads.items():
            expect_sequence(read, role, field=("inputs",))
        others = reads or {f"into {number}": stream for number, stream in enumerate(streams)}
        expect_same(others, "embed", field=("inputs",) if reads else ("into",))
        if not reads and len(streams) < 2:
            raise WiringError(
                "one stack has nothing to read",
                expected="inputs, or two stacks that read one another",
                field=("inputs",),
            )
        check_attend(self.attend, streams, list(others.values()))
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return CrossAttention(self, streams, reads, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        rich = {"heads": 2, "act": "before", "gate": "tanh", "hidden": 4}
        return [{"heads": 2}, {**rich, "attend": ["causal"]}]


class Reading(nnx.Module):
    """What one stream reads at one place: `x [b, t, d]` of `y [b, s, e]`, side by side."""

    def __init__(self, spec: CrossAttentionSpec, width: int, source: int, *, rngs: nnx.Rngs):
        self.norm, self.source_norm = LayerNorm(width, rngs=rngs), LayerNorm(source, rngs=rngs)
        self.attention = Attention(width, spec.heads, source_width=source, rngs=rngs)
        self.mlp_norm = None if spec.hidden is None else LayerNorm(width, rngs=rngs)
        self.mlp = None if spec.hidden is None else MLP(width, spec.hidden, rngs=rngs)
        self.rule = None if spec.attend is None else Rule.of(spec.attend, own=False)
        updates = 1 if spec.hidden is None else 2
        gated = spec.gate == "tanh"
        self.gates = parameter(rngs, initializers.zeros, (updates,), (None,)) if gated else None

    def gated(self, number: int, update: Array) -> Array:
        """tanh(gate) times an update; the update itself without gates."""
        if self.gates is None:
            return update
        return jnp.tanh(self.gates[number]).astype(update.dtype) * update

    def __call__(
        self, x: Stream, sources: Sequence[Stream], *, own: int, context: Context
    ) -> Array:
        """What is to be added to x; zeros for tokens that have nothing to read. Tokens from `own`
        on are not of the stack."""
        normal = [s.with_(values=self.source_norm(s.clean().values)) for s in sources]
        keys = [self.attention.keys_values(source) for source in normal]
        queries = self.attention.queries(x.with_(values=self.norm(x.values)))
        sight = self.ruled(x, sources, own)
        update = self.gated(0, self.attention.read(queries, keys, masks=[sight], context=context))
        if self.mlp is None or self.mlp_norm is None:
            return update
        fed = self.gated(1, self.mlp(self.mlp_norm(x.values + update)))
        there = both([readable(keys), None if sight is None else sight.whole()])
        if there is not None:
            fed = jnp.where(jnp.any(there, axis=-1)[..., None], fed, jnp.zeros((), fed.dtype))
        return update + fed

    def ruled(self, x: Stream, sources: Sequence[Stream], own: int) -> Sight | None:
        """Who may read whom by `attend` and by segments; `None`: all."""
        packed = any(stream.segment is not None for stream in (x, *sources))
        rule = self.rule or (Rule.of("all", own=False) if packed else None)
        if rule is None:
            return None
        return rule.sight(described([as_added(x, own)]), described(sources))


class CrossAttention(Operator):
    """The readings of one place, one a stream."""

    def __init__(
        self,
        spec: CrossAttentionSpec,
        streams: tuple[Signature, ...],
        reads: Signatures,
        *,
        rngs: nnx.Rngs,
    ):
        self.act = spec.act
        every = [sources_of(n, streams, tuple(reads.values())) for n in range(len(streams))]
        self.readings = nnx.List(
            Reading(spec, stream.width, sources[0].width, rngs=rngs)
            for stream, sources in zip(streams, every, strict=True)
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
        for number, (stream, reading) in enumerate(zip(streams, self.readings, strict=True)):
            sources = sources_of(number, streams, tuple(reads.values()))
            at = context.at(f"{context.path}.{number}", context.layer)

            own = stream.length

            def read(x: Stream, reading=reading, sources=sources, own=own, at=at) -> Stream:
                return x.with_(values=reading(x, sources, own=own, context=at))

            if self.act == "inside":
                edits.append(Edit(then={"attention": Branch(read)}))
            else:
                edits.append(Edit(stream=stream.with_(values=stream.values + read(stream).values)))
        return tuple(edits), state


def sources_of(number: int, streams: tuple[S, ...], reads: tuple[S, ...]) -> tuple[S, ...]:
    """What stream `number` reads: the inputs, or the other streams where there are none."""
    return reads or streams[:number] + streams[number + 1 :]

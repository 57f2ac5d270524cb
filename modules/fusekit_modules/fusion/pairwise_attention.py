"""Directed cross-modal attention between every two sequences."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, Depth, FusionSpec, Outputs, Rate, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.graph.select import select_stream
from fusekit.stream import Stream, vector
from fusekit_modules.fusion._present import emit
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.expect import expect_count, expect_sequence
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import LayerNorm
from fusekit_modules.layers.positions import sinusoidal
from fusekit_modules.layers.tower import Tower


@register
class PairwiseAttentionSpec(FusionSpec):
    """Every modality reads every other, then itself, whatever their lengths: MulT (Tsai 2019).

    Sequences are projected to `width`. For each target, what it read of its sources lies side by
    side, goes through self-attention, and is a port under the target's name; `out` is all targets
    pooled, side by side. An absent source is skipped: the target's tokens pass unchanged by
    attention. An absent target is masked: zeros in `out`.
    """

    type: Literal["pairwise_attention"] = "pairwise_attention"
    width: Width = Field(64, description="width of each pair's stream")
    heads: Count = Field(4, description="attention heads")
    depth: Depth = Field(4, description="layers of each ordered pair")
    self_depth: Depth = Field(3, description="layers of self-attention after them")
    include_self: bool = Field(False, description="whether a modality is its own source too")
    positions: Literal["sines", "none"] = Field("sines", description="added after projection")
    pool: Literal["last", "first", "mean"] = Field("last", description="what `out` takes of each")
    dropout: Rate = Field(0.0, description="rate in residual branches")

    def infer(self, inputs: Signatures) -> Outputs:
        """A sequence for each input, and their pooled vectors as one."""
        expect_count(inputs, least=2)
        names, width = port_names(inputs), self.width * len(self.sources(inputs, 0))
        if len(set(names)) < len(names) or "out" in names:
            roles = "a mapping: roles name the ports"
            raise WiringError("ports clash", found=names, expected=roles, field=("inputs",))
        if self.width % self.heads:
            raise WiringError("heads divide the width", found=self.heads, field=("heads",))
        optional = all(signature.optional for signature in inputs.values())
        ports: dict = {"out": vector(width * len(inputs), optional=optional)}
        for name, (role, given) in zip(names, inputs.items(), strict=True):
            sizes = (("time", expect_sequence(given, role).length), ("embed", width))
            ports[name] = given.with_(sizes=sizes)
        return ports

    def sources(self, inputs: Signatures, target: int) -> list[int]:
        return [k for k in range(len(inputs)) if k != target or self.include_self]

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "PairwiseAttention":
        return PairwiseAttention(self, inputs, rngs=rngs)


def port_names(inputs: Signatures) -> list[str]:
    """A role, or of a reference the node's own name; `batch.image` is `image`."""
    return [role.removeprefix("batch.").split("@")[0].split(".")[0] for role in inputs]


class Cross(nnx.Module):
    """x + attention(norm(x), norm(y)), then x + mlp(norm(x)); target and source share a norm."""

    def __init__(self, spec: PairwiseAttentionSpec, *, rngs: nnx.Rngs):
        self.dropout = spec.dropout
        self.attention_norm = LayerNorm(spec.width, rngs=rngs)
        self.attention = Attention(spec.width, spec.heads, rngs=rngs)
        self.mlp_norm = LayerNorm(spec.width, rngs=rngs)
        self.mlp = MLP(spec.width, 4 * spec.width, activation="relu", rngs=rngs)

    def __call__(self, x: Stream, y: Stream, *, context: Context) -> Stream:
        target, source = (s.with_(values=self.attention_norm(s.values)) for s in (x, y))
        update = self.attention(target, source, context=context)
        update = dropout(update, self.dropout, context=context, purpose="attention.dropout")
        x = x.with_(values=x.values + update)
        update = self.mlp(self.mlp_norm(x.values))
        update = dropout(update, self.dropout, context=context, purpose="mlp.dropout")
        return x.with_(values=x.values + update)


class Pair(nnx.Module):
    """Layers through which one target reads one source, which stays as it is; then a norm."""

    def __init__(self, spec: PairwiseAttentionSpec, name: str, *, rngs: nnx.Rngs):
        self.name = name
        self.layers = nnx.List([Cross(spec, rngs=rngs) for _ in range(spec.depth)])
        self.norm = LayerNorm(spec.width, rngs=rngs)

    def __call__(self, x: Stream, y: Stream, *, context: Context) -> Float[Array, "b t d"]:
        for index, layer in enumerate(self.layers):
            x = layer(x, y, context=context.at(f"{context.path}.{self.name}", index))
        return self.norm(x.values)


class PairwiseAttention(nnx.Module):
    """`[b, t_k, d_k]` each -> ports `[b, t_k, sources * width]`, out `[b, m * sources * width]`."""

    def __init__(self, spec: PairwiseAttentionSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.positions, self.pool, self.names = spec.positions, spec.pool, tuple(port_names(inputs))
        axes, widths = ("features", "embed"), [s.width for s in inputs.values()]
        each = [Linear(w, spec.width, axes=axes, bias=False, rngs=rngs) for w in widths]
        self.project, self.pairs, towers = nnx.List(each), nnx.Dict(), []
        self.sources = tuple(tuple(spec.sources(inputs, k)) for k in range(len(inputs)))
        for target, sources in enumerate(self.sources):
            for source in sources:
                name = f"{target}_{source}"
                self.pairs[name] = Pair(spec, name, rngs=rngs)
            width, options = spec.width * len(sources), {"dropout": spec.dropout}
            options |= {"hidden": 4 * width, "activation": "relu"}
            towers.append(Tower(width, spec.heads, depth=spec.self_depth, rngs=rngs, **options))
        self.towers = nnx.List(towers)

    def embed(self, stream: Stream, project: Linear) -> Stream:
        values = project(stream.clean().values)
        if self.positions == "sines":
            table = sinusoidal(stream.positions(), values.shape[-1], dtype=values.dtype)
            values = values + jnp.broadcast_to(table, values.shape)
        return stream.with_(values=values).clean()

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given, out = list(streams.values()), {}
        x = [self.embed(s, project) for s, project in zip(given, self.project, strict=True)]
        for target, name in enumerate(self.names):
            found = [
                self.pairs[f"{target}_{source}"](x[target], x[source], context=context)
                for source in self.sources[target]
            ]
            joined = x[target].with_(values=jnp.concatenate(found, axis=2)).clean()
            tower = self.towers[target]
            out[name] = tower(joined, context=context, name=f"self_{target}").clean()
        pooled = [select_stream(stream, (self.pool,)).clean().values for stream in out.values()]
        return {"out": emit(jnp.concatenate(pooled, axis=1), given), **out}

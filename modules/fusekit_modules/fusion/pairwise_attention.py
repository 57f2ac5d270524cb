"""Directed cross-modal attention between every two sequences."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
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

    As in the authors' code, both stages scale their tokens by sqrt(width) and add positions, and
    sources stay as they were embedded. Unlike it: tokens read ahead unless `causal`, since a whole
    sequence is there to be classified; masks say what is padding, where that takes a first feature
    of 0 for it; one rate of dropout serves embedded tokens and branches, with none inside attention
    and the MLP; and the last residual MLP on `out` is left to a head.
    """

    type: Literal["pairwise_attention"] = "pairwise_attention"
    width: Width = Field(64, description="width of each pair's stream")
    heads: Count = Field(4, description="attention heads")
    depth: Depth = Field(4, description="layers of each ordered pair")
    self_depth: Depth = Field(3, description="layers of self-attention after them")
    include_self: bool = Field(False, description="whether a modality is its own source too")
    positions: Literal["sines", "none"] = Field("sines", description="added after projection")
    pool: Literal["last", "first", "mean"] = Field("last", description="what `out` takes of each")
    causal: bool = Field(
        False, description="whether tokens read no later ones, up to the difference of lengths"
    )
    dropout: Rate = Field(0.0, description="rate in residual branches and on embedded tokens")

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

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"width": 4, "heads": 2, "depth": 1, "self_depth": 1}
        rest = {"include_self": True, "causal": True, "positions": "none", "pool": "mean"}
        return [{**small, "dropout": 0.1}, {**small, **rest}]


def port_names(inputs: Signatures) -> list[str]:
    """A role, or of a reference the node's own name; `batch.image` is `image`."""
    return [role.removeprefix("batch.").split("@")[0].split(".")[0] for role in inputs]


def embedded(
    stream: Stream, positions: Literal["sines", "none"], rate: float, purpose: str, context: Context
) -> Stream:
    """sqrt(d) x + positions, which count from 1: `[b, t, d]`."""
    values = stream.values * stream.width**0.5
    if positions == "sines":
        at, width = stream.positions() + 1, stream.width
        values = values + sinusoidal(at, width, slowest=True, dtype=values.dtype)
    values = dropout(values, rate, context=context, purpose=purpose)
    return stream.with_(values=values).clean()


def causal_mask(target: int, source: int) -> np.ndarray:
    """`[t, s]`: token i reads j up to i + |t - s|."""
    return np.tril(np.ones((target, source), bool), abs(target - source))


class Cross(nnx.Module):
    """x + attention(norm(x), norm(y)), then x + mlp(norm(x)); target and source share a norm."""

    def __init__(self, spec: PairwiseAttentionSpec, *, rngs: nnx.Rngs):
        self.dropout, self.causal = spec.dropout, spec.causal
        self.attention_norm = LayerNorm(spec.width, rngs=rngs)
        self.attention = Attention(spec.width, spec.heads, rngs=rngs)
        self.mlp_norm = LayerNorm(spec.width, rngs=rngs)
        self.mlp = MLP(spec.width, 4 * spec.width, activation="relu", rngs=rngs)

    def __call__(self, x: Stream, y: Stream, *, context: Context) -> Stream:
        target, source = (s.with_(values=self.attention_norm(s.values)) for s in (x, y))
        masks = [jnp.asarray(causal_mask(x.length, y.length))] if self.causal else []
        update = self.attention(target, source, masks=masks, context=context)
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
        self.positions: Literal["sines", "none"] = spec.positions
        self.pool, self.dropout = spec.pool, spec.dropout
        self.names = tuple(port_names(inputs))
        axes, widths = ("features", "embed"), [s.width for s in inputs.values()]
        each = [Linear(w, spec.width, axes=axes, bias=False, rngs=rngs) for w in widths]
        self.project, self.pairs, towers = nnx.List(each), nnx.Dict(), []
        self.sources = tuple(tuple(spec.sources(inputs, k)) for k in range(len(inputs)))
        for target, sources in enumerate(self.sources):
            for source in sources:
                name = f"{target}_{source}"
                self.pairs[name] = Pair(spec, name, rngs=rngs)
            width: int = spec.width * len(sources)
            options: dict[str, Any] = {"dropout": spec.dropout}
            options |= {"hidden": 4 * width, "activation": "relu", "causal": spec.causal}
            towers.append(Tower(width, spec.heads, depth=spec.self_depth, rngs=rngs, **options))
        self.towers = nnx.List(towers)

    def embed(self, stream: Stream, purpose: str, context: Context) -> Stream:
        return embedded(stream, self.positions, self.dropout, purpose, context)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given, out = list(streams.values()), {}
        x = []
        for number, (stream, project) in enumerate(zip(given, self.project, strict=True)):
            tokens = stream.with_(values=project(stream.clean().values))
            x.append(self.embed(tokens, f"embed.{number}", context))
        for target, name in enumerate(self.names):
            found = [
                self.pairs[f"{target}_{source}"](x[target], x[source], context=context)
                for source in self.sources[target]
            ]
            joined = x[target].with_(values=jnp.concatenate(found, axis=2))
            joined = self.embed(joined, f"embed.self_{target}", context)
            tower = self.towers[target]
            out[name] = tower(joined, context=context, name=f"self_{target}").clean()
        pooled = [select_stream(stream, (self.pool,)).clean().values for stream in out.values()]
        return {"out": emit(jnp.concatenate(pooled, axis=1), given), **out}

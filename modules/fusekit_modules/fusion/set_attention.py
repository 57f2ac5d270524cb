"""Fusion of a set of modality tokens."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, Depth, Outputs, Rate, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Span, Stream, any_present
from fusekit_modules.fusion._present import emit, masked_mean, read, weighted
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.tower import Tower


@register
class SetAttentionSpec(WidthFusionSpec):
    """Each modality is one token of a set; the order of `inputs` does not matter.

    `transformer`: self-attention among the tokens, then their mean. `deep_set`: the tokens' mean,
    weighed by a learned score of each, then an MLP (Zaheer 2017; scores of Ilse 2018, eq. 8).
    Absent modalities are masked tokens, and weights add up to one over the present ones.
    """

    type: Literal["set_attention"] = "set_attention"
    form: Literal["transformer", "deep_set"] = Field("transformer", description="how tokens mix")
    depth: Depth = Field(1, description="layers of the transformer")
    heads: Count = Field(4, description="attention heads of the transformer")
    hidden: Width | None = Field(None, description="width within an MLP; default four times")
    dropout: Rate = Field(0.0, description="rate in the transformer's branches")

    def infer(self, inputs: Signatures) -> Outputs:
        out = super().infer(inputs)
        if self.form == "transformer" and (width := self.out_width(inputs)) % self.heads:
            raise WiringError("heads divide the width", found=self.heads, expected=f"of {width}")
        return out

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "SetAttention | DeepSet":
        module = SetAttention if self.form == "transformer" else DeepSet
        return module(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"heads": 2}, {"form": "deep_set", "width": 4, "hidden": 6}]


def tokens(project: nnx.List[Linear], values: list) -> jnp.ndarray:
    """`[b, m, width]`."""
    return jnp.stack([p(x) for p, x in zip(project, values, strict=True)], axis=1)


class SetAttention(nnx.Module):
    """mean_k T(W_1 x_1, ..., W_M x_M)_k with a transformer T: `[b, width]`."""

    def __init__(self, spec: SetAttentionSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        self.project = projections(inputs, width, rngs=rngs)
        hidden, rate = spec.hidden or 4 * width, spec.dropout
        self.tower = Tower(
            width, spec.heads, depth=spec.depth, hidden=hidden, dropout=rate, rngs=rngs
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        some = any_present(streams.values())
        mask = None if all(s.presence is None for s in streams.values()) else present
        spans = (Span("set", len(values)),)
        stream = Stream(tokens(self.project, values), mask=mask, presence=some, spans=spans)
        mixed = self.tower(stream.clean(), context=context)
        return emit(masked_mean(mixed.values, present), streams.values())


class DeepSet(nnx.Module):
    """MLP(sum_k a_k W_k x_k), a = softmax_k(v tanh(U W_k x_k)): `[b, width]`."""

    def __init__(self, spec: SetAttentionSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        self.project = projections(inputs, width, rngs=rngs)
        self.score = MLP(width, width, outputs=1, activation="tanh", last_bias=False, rngs=rngs)
        self.mlp = MLP(width, spec.hidden or 4 * width, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        each = tokens(self.project, values)
        weights = masked_softmax(self.score(each)[..., 0], present)
        context.collect("attention", weights)
        return emit(self.mlp(weighted(weights, each)), streams.values())

"""Attention over the elements of each modality, then over the modalities."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import FusionSpec, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Stream, vector
from fusekit_modules.fusion._nodes import node_signatures, nodes
from fusekit_modules.fusion._present import emit, masked_mean, weighted
from fusekit_modules.fusion._vectors import projections
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.mlp import MLP


@register
class HierarchicalAttentionSpec(FusionSpec):
    """A set of sequences, pooled twice with residual attention, in the manner of DM2S2 (Kitada et
    al. 2022): the mean plus the attention-weighted sum.

    Elements of a modality: u_k = mean_i h_i + sum_i a_i h_i with a = softmax(s(h)) over its valid
    elements h = W_k x. Modalities: y = mean_k u_k + sum_k b_k u_k with b = softmax(r(u)). Each s, r
    is v tanh(U h + c). Port `weights`: b, one an input. A modality that a row lacks, or of which
    all is padding, is in neither mean nor softmax. Vectors are sequences of one.
    """

    type: Literal["hierarchical_attention"] = "hierarchical_attention"
    width: Width | None = Field(None, description="output width; default the least input width")

    def out_width(self, inputs: Signatures) -> int:
        return self.width or min(signature.width for signature in inputs.values())

    def infer(self, inputs: Signatures) -> Outputs:
        """A vector, and a weight for each input. Raises `WiringError`."""
        given = node_signatures(inputs)
        optional = all(signature.optional for signature in given.values())
        weights = vector(len(given), optional=optional)
        return {"out": vector(self.out_width(given), optional=optional), "weights": weights}

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "HierarchicalAttention":
        return HierarchicalAttention(self, node_signatures(inputs), rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"width": 4}]


class HierarchicalAttention(nnx.Module):
    """`[b, t_k, d_k]` or `[b, d_k]` each -> `[b, width]`."""

    def __init__(self, spec: HierarchicalAttentionSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        self.spans = tuple(signature.spans for signature in inputs.values())
        self.project = projections(inputs, width, rngs=rngs)
        score = {"outputs": 1, "activation": "tanh", "last_bias": False, "rngs": rngs}
        self.elements = nnx.Dict()
        """By the number of the input; a vector has no elements to choose among."""
        for index, signature in enumerate(inputs.values()):
            if signature.length > 1:
                self.elements[str(index)] = MLP(width, width, **score)
        self.modalities = MLP(width, width, **score)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        pooled, there = [], []
        given = nodes(streams, self.spans)
        for index, (stream, project) in enumerate(zip(given, self.project, strict=True)):
            valid, h = stream.valid(), project(stream.values)
            valid = jnp.ones(h.shape[:2], bool) if valid is None else valid
            attention = valid.astype(h.dtype)
            if str(index) in self.elements:
                attention = masked_softmax(self.elements[str(index)](h)[..., 0], valid)
            context.collect("attention", attention)
            pooled.append(masked_mean(h, valid) + weighted(attention, h))
            there.append(jnp.any(valid, axis=1))
        u, present = jnp.stack(pooled, axis=1), jnp.stack(there, axis=1)
        weights = masked_softmax(self.modalities(u)[..., 0], present).astype(u.dtype)
        out = masked_mean(u, present) + weighted(weights, u)
        given = {"out": out, "weights": weights}
        return {name: emit(values, streams.values()) for name, values in given.items()}

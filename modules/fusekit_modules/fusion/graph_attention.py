"""Attention over the graph of a sample's nodes."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Depth, FusionSpec, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream, concatenate, concatenate_signatures
from fusekit_modules.fusion._nodes import node_signatures, nodes
from fusekit_modules.fusion._vectors import projections
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.linear import Linear

SLOPE = 0.2


@register
class GraphAttentionSpec(FusionSpec):
    """Graph attention network over all tokens and vectors of the inputs (Velickovic et al. 2018).

    Inputs are mapped to one width. Node i reads itself and the nodes that `edges` joins it to: all,
    those within its own input, or those of other inputs. Inner layers concatenate heads (eq. 5) and
    take ELU; the last one averages them (eq. 6). The result is the sequence of nodes under the
    labels of the inputs. What is absent or padded is no node.
    """

    type: Literal["graph_attention"] = "graph_attention"
    width: Width | None = Field(None, description="of the nodes; default the least input width")
    depth: Depth = Field(2, description="layers")
    heads: Count = Field(4, description="attention heads; they divide the width")
    edges: Literal["all", "within", "between"] = Field("all", description="which nodes are joined")

    def out_width(self, inputs: Signatures) -> int:
        return self.width or min(signature.width for signature in inputs.values())

    def infer(self, inputs: Signatures) -> Outputs:
        """All nodes as a sequence. Raises `WiringError`."""
        given = node_signatures(inputs)
        width = self.out_width(given)
        if width % self.heads:
            raise WiringError("heads divide the width", found=self.heads, expected=f"of {width}")
        return joined(given, width)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "GraphAttention":
        return GraphAttention(self, node_signatures(inputs), rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"heads": 2, "depth": 1}
        return [{"heads": 2}, {**small, "edges": "between"}]


def joined(inputs: Signatures, width: int) -> Signature:
    out = concatenate_signatures(list(inputs.values()))
    return out.with_(sizes=(("time", out.length), ("embed", width)))


def adjacency(lengths: list[int], edges: Literal["all", "within", "between"]) -> np.ndarray:
    """`[n, n]`: whether i reads j, for inputs of these lengths one after another."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    same = owner[:, None] == owner[None]
    chosen = {"all": np.ones_like(same), "within": same, "between": ~same}[edges]
    return chosen | np.eye(len(owner), dtype=bool)


class GraphAttention(nnx.Module):
    """`[b, t_k, d_k]` or `[b, d_k]` each -> `[b, sum t_k, width]`."""

    def __init__(self, spec: GraphAttentionSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        self.spans = tuple(signature.spans for signature in inputs.values())
        self.lengths = tuple(signature.length for signature in inputs.values())
        self.edges: Literal["all", "within", "between"] = spec.edges
        self.project = projections(inputs, width, rngs=rngs)
        last = spec.depth - 1
        self.layers = nnx.List(
            [GraphLayer(width, spec.heads, last=k == last, rngs=rngs) for k in range(spec.depth)]
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        given = nodes(streams, self.spans)
        each = [s.with_(values=p(s.values)) for s, p in zip(given, self.project, strict=True)]
        graph, valid = concatenate(each), concatenate(each).mask
        edges = jnp.asarray(adjacency(list(self.lengths), self.edges))[None]
        edges = edges if valid is None else edges & valid[:, None]
        h = graph.values
        for layer in self.layers:
            h = layer(h, edges, context=context)
        return graph.with_(values=h).clean()


class GraphLayer(nnx.Module):
    """sum_j a_ij W h_j with a = softmax_j(leaky_relu(l W h_i + r W h_j)) by head (eqs. 1-4)."""

    def __init__(self, width: int, heads: int, *, last: bool, rngs: nnx.Rngs):
        self.last, size = last, width if last else width // heads
        axes = ("embed", "heads", "head_dim")
        self.kernel = Linear(width, (heads, size), axes=axes, bias=False, rngs=rngs)
        init = initializers.normal(size**-0.5)
        self.left = parameter(rngs, init, (heads, size), ("heads", "head_dim"))
        self.right = parameter(rngs, init, (heads, size), ("heads", "head_dim"))

    def __call__(
        self, h: Float[Array, "b n d"], edges: Bool[Array, "*b n n"], *, context: Context
    ) -> Float[Array, "b n o"]:
        projected = self.kernel(h)
        left, right = (p[...].astype(h.dtype) for p in (self.left, self.right))
        ours = jnp.einsum("bnhk,hk->bhn", projected, left)
        theirs = jnp.einsum("bnhk,hk->bhn", projected, right)
        scores = jax.nn.leaky_relu(ours[..., None] + theirs[:, :, None], SLOPE)
        weights = masked_softmax(scores, jnp.broadcast_to(edges[:, None], scores.shape))
        context.collect("attention", weights)
        mixed = jnp.einsum("bhij,bjhk->bihk", weights.astype(h.dtype), projected)
        if self.last:
            return jnp.mean(mixed, axis=2)
        return jax.nn.elu(mixed.reshape(*mixed.shape[:2], -1))

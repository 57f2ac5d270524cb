"""Bilinear pooling by blocks."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Count, Signatures, register
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._root import signed_root
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.linear import Linear


@register
class BlockBilinearSpec(WidthFusionSpec):
    """A block-term decomposition of the bilinear tensor: BLOCK (Ben-Younes 2019, eqs. 5-8), for
    two or more.

    Projections are cut into `blocks` chunks of `size`; within a chunk, `rank` products of maps add
    up, then signed roots and length one (unless `normalise` is off); all chunks are mapped to
    `width`. One block without `normalise` is MUTAN (Ben-Younes 2017). An absent vector is skipped:
    its factor is one.
    """

    type: Literal["block_bilinear"] = "block_bilinear"
    blocks: Count = Field(4, description="chunks")
    size: Count = Field(16, description="width of a chunk")
    rank: Count = Field(4, description="products in each chunk")
    normalise: bool = Field(True, description="signed roots and length one of each chunk")

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "BlockBilinear":
        return BlockBilinear(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"size": 3}, {"blocks": 1, "normalise": False, "width": 4, "size": 5}]


class BlockBilinear(nnx.Module):
    """`[b, d_1], [b, d_2], ... -> [b, width]`."""

    def __init__(self, spec: BlockBilinearSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        count, total = len(inputs), spec.blocks * spec.size
        self.chunks, self.normalise = (spec.blocks, spec.size), spec.normalise
        self.project = projections(inputs, total, rngs=rngs)
        init = initializers.lecun_normal(batch_axis=(0, 1))
        shape = (count, spec.blocks, spec.size, spec.rank * spec.size)
        self.maps = parameter(rngs, init, shape, (None, None, "embed", "rank"))
        shape, axes = (count, spec.blocks, shape[-1]), (None, None, "rank")
        self.biases = parameter(rngs, initializers.ones, shape, axes)
        self.out = Linear(total, spec.out_width(inputs), axes=("features", "embed"), rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        each = [project(x) for project, x in zip(self.project, values, strict=True)]
        chunks = jnp.stack(each, axis=1).reshape(present.shape[0], len(each), *self.chunks)
        maps, biases = (p[...].astype(chunks.dtype) for p in (self.maps, self.biases))
        factors = jnp.einsum("bmcs,mcsr->bmcr", chunks, maps) + biases
        product = jnp.prod(jnp.where(present[:, :, None, None], factors, 1.0), axis=1)
        pooled = jnp.sum(product.reshape(*product.shape[:2], -1, self.chunks[1]), axis=2)
        pooled = signed_root(pooled) if self.normalise else pooled
        return emit(self.out(pooled.reshape(pooled.shape[0], -1)), streams.values())

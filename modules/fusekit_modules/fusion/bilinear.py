"""Low-rank bilinear pooling."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.lax import rsqrt
from pydantic import Field

from fusekit.component import Count, Signatures, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.fusion._present import choose, emit, read
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.linear import Linear

EPSILON = 1e-6


@register
class BilinearSpec(WidthFusionSpec):
    """Products of projections: MLB (Kim 2017, eq. 8) or MFB (Yu 2017, sec. 3.1), for two or more.

    `mlb` multiplies tanh projections of size `rank` and maps the product to `width`. `mfb`
    multiplies `width * rank` projections, sums them by `rank`, takes signed square roots and
    divides by the Euclidean norm. An absent modality is skipped: its factor is one.
    """

    type: Literal["bilinear"] = "bilinear"
    form: Literal["mlb", "mfb"] = Field("mlb", description="which pooling")
    rank: Count = Field(8, description="size of the product (mlb), or terms of each sum (mfb)")

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Bilinear":
        return Bilinear(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"form": "mfb", "rank": 2, "width": 4}]


class Bilinear(nnx.Module):
    """`[b, d_1], [b, d_2], ... -> [b, width]`."""

    def __init__(self, spec: BilinearSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.rank, width = spec.rank, spec.out_width(inputs)
        out = Linear(spec.rank, width, axes=("rank", "features"), rngs=rngs)
        self.out = out if spec.form == "mlb" else None
        size = spec.rank * (width if spec.form == "mfb" else 1)
        self.project = projections(inputs, size, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        product = jnp.ones((), values[0].dtype)
        for index, (project, value) in enumerate(zip(self.project, values, strict=True)):
            factor = project(value) if self.out is None else jnp.tanh(project(value))
            product *= choose(present[:, index], factor, 1.0)
        if self.out is not None:
            return emit(self.out(product), streams.values())
        pooled = product.reshape(product.shape[0], -1, self.rank).sum(axis=2)
        root = pooled * rsqrt(jnp.abs(pooled) + EPSILON)
        norm = rsqrt(jnp.sum(root**2, axis=1, keepdims=True) + EPSILON)
        return emit(root * norm, streams.values())

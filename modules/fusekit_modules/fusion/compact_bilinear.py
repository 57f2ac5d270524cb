"""Compact bilinear pooling."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Signatures, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.fusion._present import choose, emit, read
from fusekit_modules.fusion._root import signed_root
from fusekit_modules.fusion._vectors import WidthFusionSpec
from fusekit_modules.layers.wide import wide


@register
class CompactBilinearSpec(WidthFusionSpec):
    """A random projection of the outer product, without forming it: MCB (Fukui 2016, sec. 3.1).

    The count sketch of the outer product is the circular convolution of the count sketches of its
    factors. Hashes and signs are drawn once from `seed` and are no parameters: it has none. Signed
    square roots and length one follow, unless `normalise` is off. An absent vector is skipped: its
    factor is one.
    """

    type: Literal["compact_bilinear"] = "compact_bilinear"
    seed: int = Field(0, ge=0, le=2**31, description="of the hashes and signs")
    normalise: bool = Field(True, description="signed square roots and length one")

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "CompactBilinear":
        return CompactBilinear(self, self.out_width(inputs))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 16}, {"normalise": False, "seed": 3}]


def hashes(seed: int, index: int, width: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The bucket `[width]` and the sign `[width]` of each feature of input number `index`."""
    rng = np.random.default_rng([seed, index])
    return rng.integers(0, buckets, width), 2 * rng.integers(0, 2, width) - 1


class CompactBilinear(nnx.Module):
    """`[b, d_1], [b, d_2], ... -> [b, width]`, in float32 at least within."""

    def __init__(self, spec: CompactBilinearSpec, width: int):
        self.width, self.seed, self.normalise = width, spec.seed, spec.normalise

    def sketch(self, x: Float[Array, "b d"], index: int) -> Float[Array, "b w"]:
        """Count sketch (Charikar et al. 2002): each feature, with its sign, adds to its bucket."""
        bucket, sign = hashes(self.seed, index, x.shape[1], self.width)
        table = (bucket[:, None] == np.arange(self.width)) * sign[:, None]
        return jnp.einsum("bd,dw->bw", x, jnp.asarray(table, x.dtype), precision="highest")

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        product = jnp.ones(())
        for index, value in enumerate(values):
            factor = jnp.fft.rfft(self.sketch(wide(value), index), axis=1)
            product = product * choose(present[:, index], factor, 1.0)
        pooled = jnp.fft.irfft(product, n=self.width, axis=1)
        pooled = signed_root(pooled) if self.normalise else pooled
        return emit(pooled.astype(values[0].dtype), streams.values())

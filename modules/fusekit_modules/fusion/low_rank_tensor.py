"""Low-rank tensor fusion."""

from math import prod
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array
from pydantic import Field

from fusekit.component import Count, Signatures, register
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._vectors import WidthFusionSpec
from fusekit_modules.ops.low_rank import Factor, able, given_of, low_rank
from fusekit_modules.ops.rule import chosen, target_of


@register
class LowRankTensorSpec(WidthFusionSpec):
    """Tensor fusion and a linear map in one, of low rank: LMF (Liu et al. 2018).

    Saves parameters only while rank * sum(d_k + 1) < prod(d_k + 1): see `break_even`. An absent
    modality counts as [1; 0]: of its factors only the row of the one remains.
    """

    rivals: ClassVar[tuple[str, ...]] = ("tensor",)

    type: Literal["low_rank_tensor"] = "low_rank_tensor"
    rank: Count = Field(4, description="how many rank-one terms make up each weight tensor")

    def break_even(self, inputs: Signatures) -> int:
        """The highest rank with fewer weights than `tensor` followed by a linear map."""
        sizes = [signature.width + 1 for signature in inputs.values()]
        return (prod(sizes) - 1) // sum(sizes)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "LowRankTensor":
        return LowRankTensor(self, inputs, rngs=rngs)


def from_one(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Factors `[rank, 1 + d, width]` that start at 1 for the constant, at LeCun's scale else."""
    return initializers.lecun_normal(batch_axis=0)(key, shape, dtype).at[:, 0].set(1.0)


class LowRankTensor(nnx.Module):
    """y = sum_r w_r prod_k ([1; x_k] F_k,r) + b, `[b, width]`.

    The rows of the ones start at 1, so that the product starts near 1 plus the sum of what each
    modality says: a product of small numbers would hide every one from the others' gradients.
    """

    def __init__(self, spec: LowRankTensorSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        axes = ("rank", "embed", "features")
        shapes = [(spec.rank, signature.width + 1, width) for signature in inputs.values()]
        self.factors = nnx.List([parameter(rngs, from_one, shape, axes) for shape in shapes])
        mix = initializers.normal(spec.rank**-0.5)
        self.mix = parameter(rngs, mix, (spec.rank,), ("rank",))
        self.bias = parameter(rngs, initializers.zeros, (width,), ("features",))

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, _ = read(streams)
        dtype = values[0].dtype
        factors = (parameters[...].astype(dtype) for parameters in self.factors)
        given = (
            values,
            [Factor(factor[:, 0], factor[:, 1:]) for factor in factors],
            self.mix[...].astype(dtype),
            self.bias[...].astype(dtype),
        )
        target = target_of(context)
        choice = chosen(
            context,
            "low-rank product",
            able(given_of(*given), target),
            doubts=dict.fromkeys(("gpu", "tpu"), lambda: "it was not measured"),
            shapes=values,
        )
        backward = "reference" if choice.backend == "reference" else "xla"
        more: Any = {"target": target, "layout": context.layout, "backward": backward}
        fused = low_rank(*given, **more, backend=choice.backend)
        return emit(fused, streams.values())

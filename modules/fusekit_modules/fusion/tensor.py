"""Tensor fusion."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fusekit.component import Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._vectors import VectorFusionSpec

LIMIT = 1_000_000


@register
class TensorSpec(VectorFusionSpec):
    """The outer product of all vectors, a one before each, flattened row-major: TFN (Zadeh
    et al. 2017).

    An absent modality counts as [1; 0]: only the products without it remain.
    """

    type: Literal["tensor"] = "tensor"

    def out_width(self, inputs: Signatures) -> int:
        """prod(d_k + 1). Raises `WiringError` beyond a million."""
        width = 1
        for signature in inputs.values():
            width *= signature.width + 1
        if width > LIMIT:
            raise WiringError("the product is too wide", found=width, expected="low_rank_tensor")
        return width

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Tensor":
        return Tensor()


class Tensor(nnx.Module):
    """vec([1; x_1] (x) ... (x) [1; x_M]) `[b, prod(d_k + 1)]`; has no parameters."""

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, _ = read(streams)
        out = jnp.ones_like(values[0][:, :1])
        for value in values:
            with_one = jnp.concatenate([jnp.ones_like(value[:, :1]), value], axis=1)
            out = outer(out, with_one).reshape(out.shape[0], -1)
        return emit(out, streams.values())


def outer(one: Float[Array, "b m"], other: Float[Array, "b n"]) -> Float[Array, "b m n"]:
    """The outer product of each sample's two vectors: a `dot_general`, because XLA fuses plain
    products into their gradients' sums and then works ten times longer (on a CPU)."""
    return jnp.einsum("bi,bj->bij", one, other, precision="highest")

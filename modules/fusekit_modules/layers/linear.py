"""Affine maps on the last axis or axes, with low-rank deltas given per call."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fusekit.layered import LowRank
from fusekit.parameter import Axes, Initializer, parameter

KERNEL = nnx.initializers.lecun_normal()
Deltas = Sequence[LowRank]


def low_rank(x: Float[Array, "b *n d"], delta: LowRank) -> Float[Array, "b *n o"]:
    """`x @ a @ b * scale`, with one `a, b` for all samples or one a sample (LoRA, Hu et al.
    2021, equation 3)."""
    a, b = delta.a.astype(x.dtype), delta.b.astype(x.dtype)
    x = jnp.einsum("b...d,bdr->b...r" if a.ndim == 3 else "b...d,dr->b...r", x, a)
    x = jnp.einsum("b...r,bro->b...o" if b.ndim == 3 else "b...r,ro->b...o", x, b)
    return x * jnp.asarray(delta.scale, x.dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias`. Sizes may be tuples, such as (heads, head_dim).

    Args:
      inputs: sizes of the trailing axes that are summed over.
      outputs: sizes of the axes that take their place.
      axes: logical axis names of the kernel, inputs first.
      bias: whether to add one.
      init: initialiser of the kernel, called with the sizes flattened to two.
      bias_init: initialiser of the bias.
    """

    def __init__(
        self,
        inputs: int | tuple[int, ...],
        outputs: int | tuple[int, ...],
        *,
        axes: Axes,
        bias: bool = True,
        init: Initializer = KERNEL,
        bias_init: Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        self.inputs = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        self.outputs = (outputs,) if isinstance(outputs, int) else tuple(outputs)

        def flat(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            matrix = init(key, (math.prod(self.inputs), math.prod(self.outputs)), dtype)
            return matrix.reshape(shape)

        self.kernel = parameter(rngs, flat, self.inputs + self.outputs, axes)
        outward = axes[len(self.inputs) :]
        self.bias = parameter(rngs, bias_init, self.outputs, outward) if bias else None

    def __call__(
        self, x: Float[Array, "b *n_inputs"], deltas: Deltas = ()
    ) -> Float[Array, "b *n_outputs"]:
        """Deltas act on the flattened inputs and outputs, and add."""
        y = jnp.tensordot(x, self.kernel[...].astype(x.dtype), axes=len(self.inputs))
        if deltas:
            lead = x.shape[: x.ndim - len(self.inputs)]
            flat = x.reshape(*lead, -1)
            for delta in deltas:
                y = y + low_rank(flat, delta).reshape(*lead, *self.outputs)
        if self.bias is not None:
            y = y + self.bias[...].astype(y.dtype)
        return y

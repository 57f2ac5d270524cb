"""Convolutions over one or two axes, channels last."""

import math
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from fusekit.parameter import parameter


class Conv(nnx.Module):
    """A convolution that gives one value every `stride` places, each centred on its place, so
    that more padding at the end changes nothing before it.

    Args:
      inputs: channels coming in.
      outputs: channels going out.
      kernel: odd size along each axis.
      stride: places from one value to the next, the same along each axis.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: tuple[int, ...],
        stride: int = 1,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.stride = stride

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            scale = math.sqrt(2.0 / (math.prod(kernel) * inputs))
            return jax.random.normal(key, shape, dtype) * scale

        axes = (*(None for _ in kernel), "features", "embed")
        self.kernel = parameter(rngs, init, (*kernel, inputs, outputs), axes)
        zeros = nnx.initializers.zeros
        self.bias = parameter(rngs, zeros, (outputs,), ("embed",)) if bias else None

    def __call__(self, x: Float[Array, "b *grid c"]) -> Float[Array, "b *smaller o"]:
        """Sizes are divided by the stride, rounded up."""
        kernel = self.kernel[...].astype(x.dtype)
        letters = "W" if x.ndim == 3 else "HW"
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride,) * (x.ndim - 2),
            [((size - 1) // 2, size // 2) for size in kernel.shape[:-2]],
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

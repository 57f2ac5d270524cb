"""Convolutions whose kernels have holes."""

import math
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from fusekit.parameter import parameter


class AtrousConv(nnx.Module):
    """A convolution that reads every `rate`-th place around its own (Yu and Koltun 2016, equation
    2; Chen et al. 2017, equation 1), over one axis or two; sizes are kept, zeros lie outside.

    Args:
      inputs: channels coming in.
      outputs: channels going out.
      kernel: odd size along each axis.
      rate: places from one weight to the next.
      bias: whether to add one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: tuple[int, ...],
        rate: int,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.rate, scale = rate, math.sqrt(2.0 / (math.prod(kernel) * inputs))

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jax.random.normal(key, shape, dtype) * scale

        axes = (*(None for _ in kernel), "features", "embed")
        self.kernel = parameter(rngs, init, (*kernel, inputs, outputs), axes)
        zeros = nnx.initializers.zeros
        self.bias = parameter(rngs, zeros, (outputs,), ("embed",)) if bias else None

    def __call__(self, x: Float[Array, "b *grid c"]) -> Float[Array, "b *grid o"]:
        kernel = self.kernel[...].astype(x.dtype)
        letters = "W" if x.ndim == 3 else "HW"
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,) * (x.ndim - 2),
            [(self.rate * (size // 2),) * 2 for size in kernel.shape[:-2]],
            rhs_dilation=(self.rate,) * (x.ndim - 2),
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

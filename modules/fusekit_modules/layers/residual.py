"""The residual block of convolutional networks."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit_modules.layers.batch_norm import BatchNorm
from fusekit_modules.layers.conv import Conv
from fusekit_modules.layers.group_norm import GroupNorm

ConvNormName = Literal["batch", "group"]
Valid = Bool[Array, "b *n"] | None


class ConvNorm(nnx.Module):
    """A convolution without bias, then a norm. What is padded is zero before and left out of the
    norm's statistics."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        norm: ConvNormName = "batch",
        groups: int = 1,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        shape = (kernel, kernel)
        self.conv = Conv(inputs, outputs, kernel=shape, stride=stride, bias=False, rngs=rngs)
        self.norm = (
            BatchNorm(outputs, rngs=rngs)
            if norm == "batch"
            else GroupNorm(outputs, groups, rngs=rngs)
        )

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Valid, presence: Valid, *, context: Context
    ) -> tuple[Float[Array, "b i j o"], Valid]:
        """`mask [b, h]` is of the first axis. Returns the mask of what comes out, too."""
        if mask is not None:
            x = jnp.where(mask[:, :, None, None], x, jnp.zeros((), x.dtype))
            mask = mask[:, :: self.stride]
        y = self.conv(x)
        valid = presence if mask is None else mask
        if mask is not None and presence is not None:
            valid = mask & presence[:, None]
        if isinstance(self.norm, BatchNorm):
            return self.norm(y, valid, context=context), mask
        return self.norm(y, mask), mask


class Residual(nnx.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))) (He et al. 2016, figure 2). Where size or width
    change, the skip is a strided 1 x 1 convolution with a norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        norm: ConvNormName = "batch",
        groups: int = 1,
        rngs: nnx.Rngs,
    ):
        def conv(a: int, kernel: int, stride: int) -> ConvNorm:
            return ConvNorm(
                a, outputs, kernel=kernel, stride=stride, norm=norm, groups=groups, rngs=rngs
            )

        self.first, self.second = conv(inputs, 3, stride), conv(outputs, 3, 1)
        same = stride == 1 and inputs == outputs
        self.skip = None if same else conv(inputs, 1, stride)

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Valid, presence: Valid, *, context: Context
    ) -> tuple[Float[Array, "b i j o"], Valid]:
        y, after = self.first(x, mask, presence, context=context)
        y, after = self.second(jax.nn.relu(y), after, presence, context=context)
        if self.skip is not None:
            x, _ = self.skip(x, mask, presence, context=context)
        return jax.nn.relu(x + y), after

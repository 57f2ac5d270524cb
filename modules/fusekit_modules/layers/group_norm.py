"""Group normalisation of feature maps, sample by sample."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit.parameter import parameter
from fusekit_modules.layers.wide import wide


class GroupNorm(nnx.Module):
    """Normalises groups of channels over the valid places of each sample (Wu and He 2018)."""

    def __init__(self, width: int, groups: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        self.groups, self.epsilon = groups, epsilon
        self.scale = parameter(rngs, nnx.initializers.ones, (width,), ("embed",))
        self.bias = parameter(rngs, nnx.initializers.zeros, (width,), ("embed",))

    def __call__(
        self, x: Float[Array, "b *n c"], valid: Bool[Array, "b *m"] | None = None
    ) -> Float[Array, "b *n c"]:
        """`valid [b, n]` marks the places of the first axis that count; a row without any gets
        the mean 0 and the variance 0."""
        high = wide(x)
        split = high.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        weight = jnp.ones((1,) * split.ndim, bool)
        if valid is not None:
            weight = valid.reshape(valid.shape + (1,) * (split.ndim - valid.ndim))
        ones = jnp.where(jnp.broadcast_to(weight, split.shape), 1.0, 0.0).astype(high.dtype)
        count = jnp.maximum(jnp.sum(ones, axis=axes, keepdims=True), 1.0)
        mean = jnp.sum(split * ones, axis=axes, keepdims=True) / count
        centred = split - mean
        variance = jnp.sum(centred * centred * ones, axis=axes, keepdims=True) / count
        normal = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        scale, bias = self.scale[...].astype(high.dtype), self.bias[...].astype(high.dtype)
        return (normal * scale + bias).astype(x.dtype)

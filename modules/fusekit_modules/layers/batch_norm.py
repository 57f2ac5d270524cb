"""Batch normalisation whose statistics leave out what is padded or absent."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.parameter import parameter, statistic
from fusekit_modules.layers.wide import wide


class BatchNorm(nnx.Module):
    """Normalises each channel over the batch (Ioffe and Szegedy 2015, algorithm 1).

    In training by the mean and biased variance of the places that are valid; they also move the
    running values, `running = momentum * running + (1 - momentum) * batch`, which are used
    elsewhere. A batch without a valid place uses the running values and leaves them. Of a program
    over a mesh, the statistics are those of the global batch.
    """

    def __init__(self, width: int, *, momentum: float = 0.9, epsilon: float = 1e-5, rngs: nnx.Rngs):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = parameter(rngs, nnx.initializers.ones, (width,), ("embed",))
        self.bias = parameter(rngs, nnx.initializers.zeros, (width,), ("embed",))
        self.mean = statistic(jnp.zeros((width,)), ("embed",))
        self.variance = statistic(jnp.ones((width,)), ("embed",))

    def __call__(
        self,
        x: Float[Array, "b *n c"],
        valid: Bool[Array, "b *m"] | None = None,
        *,
        context: Context,
    ) -> Float[Array, "b *n c"]:
        """`valid` covers the leading axes: samples `[b]`, or places `[b, n]`."""
        high = wide(x)
        mean, variance = self.mean[...].astype(high.dtype), self.variance[...].astype(high.dtype)
        if context.training:
            mean, variance = self._batch(high, valid, mean, variance)
        scale, bias = self.scale[...].astype(high.dtype), self.bias[...].astype(high.dtype)
        return ((high - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(
            x.dtype
        )

    def _batch(
        self, x: Array, valid: Array | None, old_mean: Array, old_variance: Array
    ) -> tuple[Array, Array]:
        """Mean and variance of the batch; moves the running values."""
        axes = tuple(range(x.ndim - 1))
        if valid is None:
            mean = jnp.mean(x, axis=axes)
            variance = jnp.mean(jnp.square(x - mean), axis=axes)
            some = jnp.asarray(True)
        else:
            weight = jnp.broadcast_to(
                valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim)), (*x.shape[:-1], 1)
            )
            count = jnp.sum(weight.astype(x.dtype))
            safe = jnp.maximum(count, 1.0)
            some = count > 0
            mean = jnp.sum(jnp.where(weight, x, 0.0), axis=axes) / safe
            variance = jnp.sum(jnp.where(weight, jnp.square(x - mean), 0.0), axis=axes) / safe
            mean = jnp.where(some, mean, old_mean)
            variance = jnp.where(some, variance, old_variance)
        self._move(self.mean, mean, some)
        self._move(self.variance, variance, some)
        return mean, variance

    def _move(self, running: nnx.Variable, batch: Array, some: Array) -> None:
        old = running[...]
        new = self.momentum * old + (1 - self.momentum) * jax.lax.stop_gradient(batch)
        running[...] = jnp.where(some, new, old).astype(old.dtype)

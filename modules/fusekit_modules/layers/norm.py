"""Layer norms. Statistics are taken in float32 at least; scale and bias may get deltas."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fusekit.layered import NormDelta
from fusekit.parameter import parameter

NormName = Literal["layer", "rms"]


def wide(x: Array) -> Array:
    """The same values in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _beside(delta: Array, x: Array) -> Array:
    """A `[d]`, `[b, d]` or whole delta, shaped to be added to `x [b, ..., d]`."""
    if delta.ndim in (1, x.ndim):
        return delta.astype(x.dtype)
    return delta.reshape(delta.shape[0], *(1,) * (x.ndim - 2), delta.shape[-1]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016): (x - mean) / sqrt(var + epsilon),
    with the biased variance, times scale, plus bias."""

    def __init__(self, width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        self.epsilon = epsilon
        self.scale = parameter(rngs, nnx.initializers.ones, (width,), ("embed",))
        self.bias = parameter(rngs, nnx.initializers.zeros, (width,), ("embed",))

    def __call__(
        self, x: Float[Array, "b *n d"], deltas: Sequence[NormDelta] = ()
    ) -> Float[Array, "b *n d"]:
        """Deltas add to scale and bias."""
        high = wide(x)
        centred = high - jnp.mean(high, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        scale, bias = self.scale[...].astype(high.dtype), self.bias[...].astype(high.dtype)
        normal = centred * jax.lax.rsqrt(variance + self.epsilon)
        return _affine(normal, scale, bias, deltas).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019): x / sqrt(mean x^2 + epsilon),
    times scale. It has no bias of its own; a delta's bias is added."""

    def __init__(self, width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        self.epsilon = epsilon
        self.scale = parameter(rngs, nnx.initializers.ones, (width,), ("embed",))

    def __call__(
        self, x: Float[Array, "b *n d"], deltas: Sequence[NormDelta] = ()
    ) -> Float[Array, "b *n d"]:
        """Deltas add to scale and bias."""
        high = wide(x)
        square = jnp.mean(high * high, axis=-1, keepdims=True)
        scale = self.scale[...].astype(high.dtype)
        normal = high * jax.lax.rsqrt(square + self.epsilon)
        return _affine(normal, scale, None, deltas).astype(x.dtype)


def _affine(
    x: Array, scale: Array, bias: Array | None, deltas: Sequence[NormDelta]
) -> Float[Array, "b *n d"]:
    for delta in deltas:
        extra = _beside(delta.bias, x)
        scale = scale + _beside(delta.scale, x)
        bias = extra if bias is None else bias + extra
    y = x * scale
    return y if bias is None else y + bias


def norm(name: NormName, width: int, *, rngs: nnx.Rngs) -> LayerNorm | RMSNorm:
    """The norm of that name."""
    return LayerNorm(width, rngs=rngs) if name == "layer" else RMSNorm(width, rngs=rngs)

"""What norms do to the last axis, with a gradient that keeps no more than it needs.

Between the passes are the input, as it came, and two numbers a row. Left to automatic
differentiation a scanned stack stores two float32 arrays of the input's size (docs/design/018).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.layers.wide import wide

Kept = tuple[Array, Array, Array | None, Array | None, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def standard(
    centred: bool,
    epsilon: float,
    x: Float[Array, "*n d"],
    scale: Float[Array, "*s d"],
    bias: Float[Array, "*s d"] | None,
) -> Float[Array, "*n d"]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis; not `centred`,
    x / sqrt(mean x^2 + epsilon). Statistics and arithmetic are in float32 at least.

    Args:
      scale, bias: of shapes that broadcast to x's.
    """
    return _forward(centred, epsilon, x, scale, bias)[0]


def _forward(
    centred: bool, epsilon: float, x: Array, scale: Array, bias: Array | None
) -> tuple[Array, Kept]:
    high = wide(x)
    mean = jnp.mean(high, axis=-1, keepdims=True) if centred else None
    high = high if mean is None else high - mean
    inverse = jax.lax.rsqrt(jnp.mean(high * high, axis=-1, keepdims=True) + epsilon)
    y = high * inverse * scale
    y = y if bias is None else y + bias
    return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _backward(
    centred: bool, epsilon: float, kept: Kept, grad: Float[Array, "*n d"]
) -> tuple[Array, Array, Array | None]:
    x, scale, bias, mean, inverse = kept
    high = wide(x) if mean is None else wide(x) - mean
    normal, up = high * inverse, wide(grad)
    inner = up * scale
    d_x = inner - normal * jnp.mean(inner * normal, axis=-1, keepdims=True)
    if centred:
        d_x = d_x - jnp.mean(inner, axis=-1, keepdims=True)
    d_bias = None if bias is None else _summed(up, bias)
    return (d_x * inverse).astype(x.dtype), _summed(up * normal, scale), d_bias


standard.defvjp(_forward, _backward)


def _summed(grad: Array, like: Array) -> Array:
    """The gradient of what was broadcast to the gradient's shape."""
    lead = grad.ndim - like.ndim
    axes = [lead + i for i, size in enumerate(like.shape) if size == 1 < grad.shape[lead + i]]
    total = jnp.sum(grad, axis=(*range(lead), *axes), keepdims=True)
    return total.reshape(like.shape).astype(like.dtype)

"""The normalisation that bilinear poolings share."""

import jax.numpy as jnp
from jax.lax import rsqrt
from jaxtyping import Array, Float

EPSILON = 1e-6


def signed_root(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """sign(x) sqrt(|x|), then length one along the last axis; smooth at zero: |x| + 1e-6 stands
    for |x| under each root."""
    root = x * rsqrt(jnp.abs(x) + EPSILON)
    return root * rsqrt(jnp.sum(jnp.square(root), axis=-1, keepdims=True) + EPSILON)

"""Arithmetic in float32 at least, whatever comes in."""

import jax.numpy as jnp
from jaxtyping import Array


def wide(x: Array) -> Array:
    """The same values in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

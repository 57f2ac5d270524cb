"""Rotary positions: queries and keys are turned by angles that grow with position."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "b n h k"], positions: Int[Array, "*b n"], *, base: float = 10000.0
) -> Float[Array, "b n h k"]:
    """Turns the pair (x_i, x_{i + k/2}) by position / base^(2 i / k) (Su et al. 2021, equation
    15, with halves paired instead of neighbours). An odd last channel is left alone."""
    half = x.shape[-1] // 2
    kind = jnp.promote_types(x.dtype, jnp.float32)
    rates = base ** (-jnp.arange(half, dtype=kind) / max(half, 1))
    angles = (positions[..., None].astype(kind) * rates)[..., None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(kind), x[..., half : 2 * half].astype(kind)
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), x[..., 2 * half :]], axis=-1)

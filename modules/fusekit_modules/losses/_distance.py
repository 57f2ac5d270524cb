"""Squared distances of vectors."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_distances(
    a: Float[Array, "*b n d"], b: Float[Array, "*b m d"]
) -> Float[Array, "*b n m"]:
    """|a_i|^2 + |b_j|^2 - 2 a_i b_j, not below zero. Exact to the rounding of the squares, so
    vectors far from the origin are best centred before."""
    squares = jnp.sum(jnp.square(a), axis=-1)[..., :, None]
    others = jnp.sum(jnp.square(b), axis=-1)[..., None, :]
    product = jnp.einsum("...nd,...md->...nm", a, b, precision="highest")
    return jnp.maximum(squares + others - 2 * product, 0)

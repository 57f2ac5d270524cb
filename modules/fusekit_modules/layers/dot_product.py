"""Scaled dot-product attention: the arithmetic alone."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit_modules.layers.wide import wide


def masked_softmax(
    scores: Float[Array, "*n k"], mask: Bool[Array, "*n k"] | None = None
) -> Float[Array, "*n k"]:
    """Softmax over the last axis among what the mask allows, in float32 at least.

    What is masked gets exactly 0, and so does a whole row in which everything is masked. All
    gradients are finite.
    """
    scores = wide(scores)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    low = jnp.finfo(scores.dtype).min
    peak = jnp.max(jnp.where(mask, scores, low), axis=-1, keepdims=True)
    safe = jnp.where(mask, scores - jax.lax.stop_gradient(peak), 0.0)
    mass = jnp.where(mask, jnp.exp(safe), 0.0)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    return mass / jnp.where(total > 0, total, 1.0)


def dot_product(
    query: Float[Array, "b q h k"],
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    mask: Bool[Array, "*b q n"] | None = None,
) -> tuple[Float[Array, "b q h k"], Float[Array, "b h q n"]]:
    """softmax(query key / sqrt(head_dim)) value by head (Vaswani et al. 2017, equation 1), and
    the weights. A query that may read nothing gets zeros.

    Sums are in float32 at least, and scores are never rounded to the inputs' dtype: softmax makes
    of a rounding error of a score the same relative error of a weight. Weights meet the values in
    the values' dtype.
    """
    high = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bqhk,bnhk->bhqn", query, key, preferred_element_type=high)
    allowed = None if mask is None else jnp.expand_dims(mask, -3)
    weights = masked_softmax(scores / math.sqrt(query.shape[-1]), allowed)
    mixed = jnp.einsum(
        "bhqn,bnhk->bqhk", weights.astype(value.dtype), value, preferred_element_type=high
    )
    return mixed.astype(value.dtype), weights

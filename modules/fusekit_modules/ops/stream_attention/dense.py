"""Attention by plain products, and its gradients from what the forward pass keeps.

All portable attention comes here: that of layers and that of the op. Sums are in float32 at least,
scores are never rounded to the inputs' dtype, and exponentials meet the values in the values'
dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Allowed = Bool[Array, "*b #q n"] | None
"""Which keys a query may read; `None`: all."""


def attend(
    query: Float[Array, "b q h k"],
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    allowed: Allowed,
    scale: float,
    *,
    product: bool = False,
) -> tuple[Float[Array, "b q h k"], Float[Array, "b h q"]]:
    """softmax(scale · query keyᵀ) value by head (Vaswani et al. 2017, equation 1), the division
    after the second product; and the logarithm of the sum of the exponentials.

    A query that may read nothing gets zeros, of both.

    Args:
      product: sums over keys come out of the product with the values, as one column more.
    """
    scores = _scores(query, key, allowed, scale)
    high = scores.dtype
    peak = jax.lax.reduce_max(scores, (scores.ndim - 1,))
    peak = jnp.where(peak == -jnp.inf, 0.0, peak)
    mass = jnp.exp(scores - peak[..., None]).astype(value.dtype)
    if product:
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    mixed = jnp.einsum("bhqn,bnhk->bqhk", mass, value, preferred_element_type=high)
    if product:
        mixed, total = mixed[..., :-1], jnp.swapaxes(mixed[..., -1], 1, 2)
    else:
        total = jnp.sum(mass, axis=-1, dtype=high)
    total = jnp.where(total == 0, 1.0, total)
    mixed = mixed / jnp.swapaxes(total, 1, 2)[..., None]
    return mixed.astype(value.dtype), peak + jnp.log(total)


def gradients(
    query: Float[Array, "b q h k"],
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    allowed: Allowed,
    scale: float,
    mixed: Float[Array, "b q h k"],
    logs: Float[Array, "b h q"],
    grad: Float[Array, "b q h k"],
) -> tuple[Float[Array, "b q h k"], Float[Array, "b n h k"], Float[Array, "b n h k"]]:
    """Of the query, the key and the value; `mixed` and `logs` are what `attend` gave."""
    high = logs.dtype
    weights = jnp.exp(_scores(query, key, allowed, scale) - logs[..., None])
    inner = jnp.einsum("bqhk,bqhk->bhq", grad, mixed, preferred_element_type=high)
    d_value = jnp.einsum("bhqn,bqhk->bnhk", weights.astype(value.dtype), grad)
    d_weights = jnp.einsum("bqhk,bnhk->bhqn", grad, value, preferred_element_type=high)
    d_scores = (weights * (d_weights - inner[..., None]) * scale).astype(key.dtype)
    d_query = jnp.einsum("bhqn,bnhk->bqhk", d_scores, key)
    return d_query, jnp.einsum("bhqn,bqhk->bnhk", d_scores, query), d_value


def _scores(query: Array, key: Array, allowed: Allowed, scale: float) -> Float[Array, "b h q n"]:
    """scale · query keyᵀ, minus infinity where a key may not be read."""
    high = jnp.promote_types(query.dtype, jnp.float32)
    found = jnp.einsum("bqhk,bnhk->bhqn", query, key, preferred_element_type=high) * scale
    return found if allowed is None else jnp.where(jnp.expand_dims(allowed, -3), found, -jnp.inf)

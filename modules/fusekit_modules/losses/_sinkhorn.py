"""Optimal transport with entropy, by Sinkhorn's iterations on logarithms."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def sinkhorn(
    cost: Float[Array, "b n m"],
    left: Bool[Array, "b n"],
    right: Bool[Array, "b m"],
    *,
    regularisation: float,
    iterations: int,
) -> Float[Array, "b"]:
    """min over plans P of <P, cost> + e KL(P, p q^T) for even shares p and q of what is valid, of
    which each side has some (Cuturi 2013, the entropy relative to p q^T as in Feydy et al. 2019).

    The value is p f + q g for the potentials after the iterations; f is the best there is for g, so
    the value is off by the square of what g is off. The gradient by the cost is the plan (the
    potentials are a maximum), and is found through the last update alone: no iteration is kept.
    """
    log_left, log_right = (_log_shares(valid, cost.dtype) for valid in (left, right))
    fixed = jax.lax.stop_gradient(cost)
    flipped = jnp.swapaxes(fixed, 1, 2)

    def step(_: int, g: Array) -> Array:
        return update(flipped, update(fixed, g, log_right), log_left)

    def update(cost: Array, potential: Array, log_share: Array) -> Array:
        inner = log_share[:, None] + (potential[:, None] - cost) / regularisation
        return -regularisation * jax.nn.logsumexp(inner, axis=2)

    g = jax.lax.fori_loop(0, iterations, step, jnp.zeros_like(fixed[:, 0]))
    f = update(cost, jax.lax.stop_gradient(g), log_right)
    return _mean(f, left) + _mean(jax.lax.stop_gradient(g), right)


def _log_shares(valid: Bool[Array, "b n"], dtype: Any) -> Float[Array, "b n"]:
    count = jnp.sum(valid, axis=1, keepdims=True).astype(dtype)
    return jnp.where(valid, -jnp.log(jnp.maximum(count, 1)), -jnp.inf)


def _mean(values: Float[Array, "b n"], valid: Bool[Array, "b n"]) -> Float[Array, "b"]:
    count = jnp.maximum(jnp.sum(valid, axis=1), 1)
    return jnp.sum(jnp.where(valid, values, 0), axis=1) / count

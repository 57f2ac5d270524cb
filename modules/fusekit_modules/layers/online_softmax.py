"""Attention over keys that come block by block: no more than one block of scores is ever held.

The running maximum and sum of Milakov & Gimelshein 2018 (algorithm 3), with the weighted values
beside them, and the gradients of Dao et al. 2022 (algorithm 4): scores are computed again from
the logarithm of the sum. Sums are in float32 at least; products are in the inputs' dtype.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Allowed = Bool[Array, "b 1 q n"] | None
"""Who may read whom in a block; sizes may be 1. `None`: all."""


class Running(NamedTuple):
    """Of the keys so far: weighted values, the largest score, and the sum of exp(score - it)."""

    mixed: Float[Array, "b h q k"]
    peak: Float[Array, "b h q"]
    total: Float[Array, "b h q"]


class Result(NamedTuple):
    """What the queries read, the logarithm of the sum of exp(score) (0 where nothing was read),
    and whether anything was."""

    mixed: Float[Array, "b q h k"]
    log_total: Float[Array, "b h q"]
    some: Bool[Array, "b h q"]


def start(query: Float[Array, "b q h k"]) -> Running:
    """Before any key."""
    b, q, h, k = query.shape
    kind = jnp.promote_types(query.dtype, jnp.float32)
    zeros = jnp.zeros((b, h, q), kind)
    return Running(jnp.zeros((b, h, q, k), kind), zeros + jnp.finfo(kind).min, zeros)


def scores(query: Float[Array, "b q h k"], key: Float[Array, "b n h k"]) -> Float[Array, "b h q n"]:
    """query key / sqrt(head_dim)."""
    high = jnp.promote_types(query.dtype, jnp.float32)
    found = jnp.einsum("bqhk,bnhk->bhqn", query, key, preferred_element_type=high)
    return found / math.sqrt(query.shape[-1])


def absorb(
    running: Running,
    query: Float[Array, "b q h k"],
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    allowed: Allowed,
) -> Running:
    """One more block of keys."""
    found = scores(query, key)
    if allowed is not None:
        found = jnp.where(allowed, found, jnp.finfo(found.dtype).min)
    peak = jnp.maximum(running.peak, jnp.max(found, axis=-1))
    mass = jnp.exp(found - peak[..., None])
    mass = mass if allowed is None else jnp.where(allowed, mass, 0.0)
    kept = jnp.exp(running.peak - peak)
    mixed = jnp.einsum(
        "bhqn,bnhk->bhqk", mass.astype(value.dtype), value, preferred_element_type=found.dtype
    )
    return Running(
        running.mixed * kept[..., None] + mixed,
        peak,
        running.total * kept + jnp.sum(mass, axis=-1),
    )


def united(running: Running, axis: Any) -> Running:
    """What the devices along mesh axes found for the same queries, each of other keys."""
    peak = jax.lax.pmax(running.peak, axis)
    kept = jnp.exp(running.peak - peak)
    mixed, total = running.mixed * kept[..., None], running.total * kept
    return Running(jax.lax.psum(mixed, axis), peak, jax.lax.psum(total, axis))


def finish(running: Running, query: Float[Array, "b q h k"]) -> Result:
    """After all keys. Queries that may read nothing get zeros."""
    some = running.total > 0
    total = jnp.where(some, running.total, 1.0)
    mixed = jnp.swapaxes(running.mixed / total[..., None], 1, 2).astype(query.dtype)
    return Result(mixed, jnp.where(some, running.peak + jnp.log(total), 0.0), some)


class Pull(NamedTuple):
    """What a gradient of the result brings to every block of keys."""

    query: Float[Array, "b q h k"]
    grad: Float[Array, "b q h k"]
    log_total: Float[Array, "b h q"]
    inner: Float[Array, "b h q"]

    @staticmethod
    def of(query: Array, result: Result, grad: Float[Array, "b q h k"]) -> "Pull":
        high = result.log_total.dtype
        inner = jnp.sum(grad.astype(high) * result.mixed.astype(high), axis=-1)
        return Pull(query, grad, result.log_total, jnp.swapaxes(inner, 1, 2))

    def of_block(
        self, key: Float[Array, "b n h k"], value: Float[Array, "b n h k"], allowed: Allowed
    ) -> tuple[Array, Array, Array]:
        """The block's part of the queries' gradient, and its keys' and values' gradients, in
        float32 at least."""
        found = scores(self.query, key)
        weight = jnp.exp(found - self.log_total[..., None])
        if allowed is not None:
            weight = jnp.where(allowed, weight, 0.0)
        high, kind = found.dtype, value.dtype

        def product(form: str, a: Array, b: Array) -> Array:
            return jnp.einsum(form, a.astype(kind), b, preferred_element_type=high)

        to_weight = jnp.einsum("bqhk,bnhk->bhqn", self.grad, value, preferred_element_type=high)
        to_score = weight * (to_weight - self.inner[..., None]) / math.sqrt(key.shape[-1])
        return (
            product("bhqn,bnhk->bqhk", to_score, key),
            product("bhqn,bqhk->bnhk", to_score, self.query),
            product("bhqn,bqhk->bnhk", weight, self.grad),
        )


def chunk_of(size: int, most: int = 1024, least: int = 128) -> int:
    """How many keys of a block to take at once: the largest divisor of its size up to `most`, or
    the whole block where that is below `least`."""
    if size <= most:
        return size
    best = max(c for c in range(1, most + 1) if size % c == 0)
    return best if best >= least else size


def in_chunks(function: Callable[[Any, Any, int], Any], carry: Any, size: int) -> Any:
    """`function(carry, at, count) -> carry` over a block of `size` keys, chunk by chunk."""
    count = chunk_of(size)
    if count == size:
        return function(carry, 0, size)
    starts = jnp.arange(size // count) * count
    return jax.lax.scan(lambda c, at: (function(c, at, count), None), carry, starts)[0]

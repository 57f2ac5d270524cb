"""Dot-product attention whose scores no pass keeps: the backward pass makes them again.

Between the passes are the result and the logarithm of each query's sum. Left to automatic
differentiation a scanned stack stores two float32 arrays and one in half precision of
`[b, h, q, k]` a layer, and on TPUs turns their layouts around besides (docs/design/018). Sums are
in float32 at least, scores are never rounded to the inputs' dtype, and exponentials meet the
values in the values' dtype.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from fusekit_modules.layers.way import Way

Mask = Bool[Array, "*b q n"] | None
Kept = tuple[Array, Array, Array, Mask, Array, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix(
    way: Way,
    query: Float[Array, "b q h k"],
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    mask: Mask = None,
) -> Float[Array, "b q h k"]:
    """softmax(query key / sqrt(head_dim)) value by head (Vaswani et al. 2017, equation 1), the
    division after the second product. A query that may read nothing gets zeros.

    Both results that are kept are named `attention` for `remat`.
    """
    return _forward(way, query, key, value, mask)[0]


def _forward(way: Way, query: Array, key: Array, value: Array, mask: Mask) -> tuple[Array, Kept]:
    def one(query: Array, key: Array, value: Array, mask: Mask) -> tuple[Array, Array]:
        found = _scores(query, key, mask)
        high = found.dtype
        peak = jnp.maximum(jnp.max(found, axis=-1, initial=-jnp.inf), jnp.finfo(high).min)
        mass = jnp.exp(found - peak[..., None]).astype(value.dtype)
        if way.product:
            value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
        mixed = jnp.einsum("bhqn,bnhk->bqhk", mass, value, preferred_element_type=high)
        if way.product:
            mixed, total = mixed[..., :-1], jnp.swapaxes(mixed[..., -1], 1, 2)
        else:
            total = jnp.sum(mass, axis=-1, dtype=high)
        total = jnp.where(total == 0, 1.0, total)
        mixed = mixed / jnp.swapaxes(total, 1, 2)[..., None]
        return mixed.astype(value.dtype), peak + jnp.log(total)

    mixed, logs = _grouped(one, way, mask, query, key, value)
    mixed, logs = (checkpoint_name(kept, "attention") for kept in (mixed, logs))
    return mixed, (query, key, value, mask, mixed, logs)


def _bound(way: Way, query: Array, key: Array, value: Array, mask: Mask) -> tuple[Array, Kept]:
    """Where there is a gradient. A mask that depends on no parameter would be spread over all
    scores in the forward pass, and kept in that form: the barrier binds it to the queries."""
    if mask is not None:
        query, mask = jax.lax.optimization_barrier((query, mask))
    return _forward(way, query, key, value, mask)


def _backward(
    way: Way, kept: Kept, grad: Float[Array, "b q h k"]
) -> tuple[Array, Array, Array, None]:
    query, key, value, mask, mixed, logs = kept
    if mask is not None:
        query, mask = jax.lax.optimization_barrier((query, mask))

    def one(
        query: Array, key: Array, value: Array, mixed: Array, logs: Array, grad: Array, mask: Mask
    ) -> tuple[Array, Array, Array]:
        high, kind = logs.dtype, key.dtype
        weights = jnp.exp(_scores(query, key, mask) - logs[..., None])
        inner = jnp.einsum("bqhk,bqhk->bhq", grad, mixed, preferred_element_type=high)
        d_value = jnp.einsum("bhqn,bqhk->bnhk", weights.astype(value.dtype), grad)
        d_weights = jnp.einsum("bqhk,bnhk->bhqn", grad, value, preferred_element_type=high)
        d_scores = weights * (d_weights - inner[..., None]) / math.sqrt(key.shape[-1])
        d_scores = d_scores.astype(kind)
        d_query = jnp.einsum("bhqn,bnhk->bqhk", d_scores, key)
        return d_query, jnp.einsum("bhqn,bqhk->bnhk", d_scores, query), d_value

    return *_grouped(one, way, mask, query, key, value, mixed, logs, grad), None


mix.defvjp(_bound, _backward)


def _scores(query: Array, key: Array, mask: Mask) -> Float[Array, "b h q n"]:
    """query key / sqrt(head_dim), minus infinity where the mask is false."""
    high = jnp.promote_types(query.dtype, jnp.float32)
    found = jnp.einsum("bqhk,bnhk->bhqn", query, key, preferred_element_type=high)
    found = found / math.sqrt(query.shape[-1])
    return found if mask is None else jnp.where(jnp.expand_dims(mask, -3), found, -jnp.inf)


def _grouped(function: Callable[..., Any], way: Way, mask: Mask, *given: Array) -> Any:
    """`function(*given, mask)` of examples in groups: of each part of the examples some that are
    side by side, so that nothing moves on a mesh."""
    if way.groups == 1:
        return function(*given, mask)
    batch = given[0].shape[0]
    own = mask is not None and mask.ndim > 2 and mask.shape[0] == batch

    def parted(x: Array) -> Array:
        x = jnp.moveaxis(x.reshape(way.parts, way.groups, -1, *x.shape[1:]), 1, 0)
        return x.reshape(way.groups, -1, *x.shape[3:])

    def whole(x: Array) -> Array:
        x = x.reshape(way.groups, way.parts, -1, *x.shape[2:])
        return jnp.moveaxis(x, 0, 1).reshape(batch, *x.shape[3:])

    def body(given: tuple[tuple[Array, ...], Mask]) -> Any:
        arrays, part = given
        return function(*arrays, part if own else mask)

    parts = tuple(parted(x) for x in given)
    found = jax.lax.map(body, (parts, parted(mask) if own and mask is not None else None))
    return jax.tree.map(whole, found)

"""Dot-product attention whose scores no pass keeps: the backward pass makes them again.

Between the passes are the result and the logarithm of each query's sum. Left to automatic
differentiation a scanned stack stores two float32 arrays and one in half precision of
`[b, h, q, k]` a layer, and on TPUs turns their layouts around besides (docs/design/018).
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
from fusekit_modules.ops.stream_attention.dense import attend, gradients

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
        return attend(query, key, value, mask, _scale(query), product=way.product)

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
        return gradients(query, key, value, mask, _scale(query), mixed, logs, grad)

    return *_grouped(one, way, mask, query, key, value, mixed, logs, grad), None


mix.defvjp(_bound, _backward)


def _scale(query: Array) -> float:
    return 1 / math.sqrt(query.shape[-1])


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

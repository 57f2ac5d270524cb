"""Grouped products in float32 or wider, every group on every row: the obvious form."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def forward(
    rows: Float[Array, "n d"], sizes: Int[Array, "e"], weights: Float[Array, "e d h"]
) -> Float[Array, "n h"]:
    """Row i times the weights of its group; zeros beyond the last group's rows."""
    wide = _wide(rows)
    every = jnp.einsum("nd,edh->neh", rows.astype(wide), weights.astype(wide), precision="highest")
    return jnp.sum(jnp.where(_mine(rows, sizes)[..., None], every, 0), axis=1).astype(rows.dtype)


def backward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    grad: Float[Array, "n h"],
) -> tuple[Float[Array, "n d"], Float[Array, "e d h"]]:
    """Gradients by rows and by weights."""
    wide = _wide(rows)
    mine = _mine(rows, sizes).astype(wide)
    exact: Any = {"precision": "highest"}
    high, slope = rows.astype(wide), grad.astype(wide)
    by_rows = jnp.einsum("nh,edh,ne->nd", slope, weights.astype(wide), mine, **exact)
    by_weights = jnp.einsum("nd,nh,ne->edh", high, slope, mine, **exact)
    return by_rows.astype(rows.dtype), by_weights.astype(weights.dtype)


def _wide(rows: Array) -> jnp.dtype:
    return jnp.promote_types(rows.dtype, jnp.float32)


def _mine(rows: Array, sizes: Array) -> Bool[Array, "n e"]:
    """Which group each row is of."""
    ends = jnp.cumsum(sizes)
    place = jnp.arange(len(rows))[:, None]
    return (place >= ends - sizes) & (place < ends)

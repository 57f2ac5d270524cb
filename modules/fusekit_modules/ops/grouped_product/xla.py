"""Grouped products by `jax.lax.ragged_dot`; where sizes are known, by slices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def forward(
    rows: Float[Array, "n d"], sizes: Int[Array, "e"], weights: Float[Array, "e d h"]
) -> Float[Array, "n h"]:
    """As `reference.forward`."""
    return jax.lax.ragged_dot(rows, weights, sizes)


def backward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    grad: Float[Array, "n h"],
) -> tuple[Float[Array, "n d"], Float[Array, "e d h"]]:
    """As `reference.backward`."""
    _, back = jax.vjp(lambda rows, weights: forward(rows, sizes, weights), rows, weights)
    return back(grad)


def sliced(
    rows: Float[Array, "n d"], sizes: Sequence[int], weights: Float[Array, "e d h"]
) -> Float[Array, "n h"]:
    """Of groups whose sizes are known when the program is traced: one product for all where they
    are equal, else one for each."""
    rest = len(rows) - sum(sizes)
    zeros = jnp.zeros((rest, weights.shape[2]), rows.dtype)
    if len(set(sizes)) == 1:
        groups = rows[: len(rows) - rest].reshape(len(sizes), sizes[0], -1)
        found = jnp.einsum("end,edh->enh", groups, weights).reshape(-1, weights.shape[2])
        return jnp.concatenate([found, zeros]) if rest else found
    parts, at = [], 0
    for size, matrix in zip(sizes, weights, strict=True):
        parts.append(rows[at : at + size] @ matrix)
        at += size
    return jnp.concatenate([*parts, zeros])

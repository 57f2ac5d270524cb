"""Grouped products in plain JAX, a tile of rows after another; where sizes are known, by slices.

`jax.lax.ragged_dot` takes as many products as there are groups wherever XLA has no kernel for it,
and holds copies of the rows for each: on CPUs seven times slower (docs/kernels.md).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fusekit_modules.ops.grouped_product.tiles import Meeting, through, tile_of


def forward(
    rows: Float[Array, "n d"], sizes: Int[Array, "e"], weights: Float[Array, "e d h"]
) -> Float[Array, "n h"]:
    """As `reference.forward`."""
    count, tile = rows.shape[0], tile_of(rows.shape[0], len(weights))
    rows = _filled(rows, tile)

    def one(out: Array, at: Meeting) -> Array:
        return at.put(out, at.of(rows, tile) @ weights[at.group].astype(rows.dtype))

    zeros = jnp.zeros((rows.shape[0], weights.shape[2]), rows.dtype)
    flops = 2 * count * weights.shape[1] * weights.shape[2]
    return through(one, zeros, sizes, rows.shape[0], tile, flops=flops)[:count]


def backward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    grad: Float[Array, "n h"],
) -> tuple[Float[Array, "n d"], Float[Array, "e d h"]]:
    """As `reference.backward`."""
    count, tile = rows.shape[0], tile_of(rows.shape[0], len(weights))
    rows, grad = _filled(rows, tile), _filled(grad, tile)
    wide = jnp.promote_types(rows.dtype, jnp.float32)

    def one(so_far: tuple[Array, Array], at: Meeting) -> tuple[Array, Array]:
        by_rows, by_weights = so_far
        slope = at.of(grad, tile)
        by_rows = at.put(by_rows, slope @ weights[at.group].astype(rows.dtype).T)
        part = jnp.dot(at.of(rows, tile).T, slope, preferred_element_type=wide)
        return by_rows, by_weights.at[at.group].add(part)

    zeros = jnp.zeros_like(rows), jnp.zeros(weights.shape, wide)
    flops = 4 * count * weights.shape[1] * weights.shape[2]
    by_rows, by_weights = through(one, zeros, sizes, rows.shape[0], tile, flops=flops)
    return by_rows[:count], by_weights.astype(weights.dtype)


def _filled(rows: Float[Array, "n d"], tile: int) -> Float[Array, "m d"]:
    """Whole tiles, at least one."""
    count = rows.shape[0]
    known = isinstance(count, int) and count > 0
    more = -count % tile if known else tile + -count % tile
    return jnp.pad(rows, ((0, more), (0, 0)))


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

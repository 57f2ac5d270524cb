"""The bodies of the Triton kernels. A program has one block of rows."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from fusekit_modules.ops.contrastive._tiles import MASKED, Ends, scores, softplus, weights
from fusekit_modules.ops.contrastive.scores import Kind, dot


def forward_kernel(kind: Kind, blocks: Any, tiles: int, *refs: Any) -> None:
    """Every `splits`-th tile of columns: results of the block of rows, and by column of it."""
    x_ref, y_ref, given, row_mask, column_mask, *sides, row_out, column_out = refs
    start, step = pl.program_id(1), pl.num_programs(1)
    masked = row_mask[...][:, None]
    side = sides[0][...][:, None] if sides else None

    def one(turn: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        most, total = carry
        place = pl.ds((start + turn * step) * blocks.columns, blocks.columns)
        top = sides[1][place][None] if sides else None
        every = scores(kind, tile_products(x_ref, y_ref, place, blocks), given, side, top)
        mask = masked + column_mask[place][None]
        if kind.reduction == "softplus":
            return most, total + jnp.sum(jnp.where(mask < 0, 0.0, softplus(every)), axis=1)
        every = every + mask
        new = jnp.maximum(most, jnp.max(every, axis=1))
        total = total * jnp.exp2(most - new) + jnp.sum(jnp.exp2(every - new[:, None]), axis=1)
        highest = jnp.max(every, axis=0)
        column_out[place] = highest + jnp.log2(jnp.sum(jnp.exp2(every - highest[None]), axis=0))
        return new, total

    zeros = jnp.zeros((blocks.rows,), jnp.float32)
    most, total = lax.fori_loop(0, tiles, one, (zeros + 4 * MASKED, zeros))
    row_out[...] = total if kind.reduction == "softplus" else most + jnp.log2(total)


def backward_kernel(kind: Kind, blocks: Any, *refs: Any) -> None:
    """One tile: gradients by its products, and sums by row and by column where these are due."""
    x_ref, y_ref, given, row_mask, column_mask, *rest = refs
    sides = rest[:2] if kind.score == "volume" else []
    stats, outs = rest[len(sides) :][:8], rest[len(sides) + 8 :]
    row = Ends(*(ref[...][:, None] for ref in stats[:4]))
    column = Ends(*(ref[...][None] for ref in stats[4:]))
    masked = row_mask[...][:, None] + column_mask[...][None]
    side, top = (sides[0][...][:, None], sides[1][...][None]) if sides else (None, None)
    products = tile_products(x_ref, y_ref, slice(None), blocks)
    every = scores(kind, products, given, side, top)
    slope = weights(kind, every, masked, row, column)
    if kind.score == "dot":
        outs[0][...] = slope.astype(outs[0].dtype)
        if kind.reduction == "softplus":
            outs[1][...] = jnp.sum(slope, axis=1)
        return
    by_products, by_scale, by_side, by_top = kind.slopes(slope, products, given[0], side, top)
    for out, by_product in zip(outs, by_products, strict=False):
        out[...] = by_product.astype(out.dtype)
    by_row, by_scales, by_column = outs[len(by_products) :]
    by_row[...], by_scales[...] = jnp.sum(by_side, axis=1), jnp.sum(by_scale, axis=1)
    by_column[...] = jnp.sum(by_top, axis=0)


def tile_products(x_ref: Any, y_ref: Any, place: Any, blocks: Any) -> list[Array]:
    """Products of the block of rows with the columns at a place, `depth` features at a time."""
    products, _, width = y_ref.shape

    def step(turn: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        part = pl.ds(turn * blocks.depth, blocks.depth)
        x = x_ref[:, part]
        new = (dot(x, y_ref[at, place, part].T) for at in range(products))
        return tuple(total + more for total, more in zip(sums, new, strict=True))

    zeros = jnp.zeros((blocks.rows, blocks.columns), jnp.float32)
    return list(lax.fori_loop(0, width // blocks.depth, step, (zeros,) * products))

"""Chunks of rows: no more than `ELEMENTS` scores at once, computed again for the gradient."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from fusekit_modules.ops.contrastive.reference import Pair
from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives, dot

ELEMENTS = 1 << 24
"""Scores of a chunk: 64 MiB of them in float32."""


def chunk_of(count: int, columns: int, chunk: int | None = None) -> int:
    """Rows of a chunk: a power of two, or all of them."""
    chunk = max(8, ELEMENTS // max(columns, 1)) if chunk is None else chunk
    return min(count, 1 << (chunk.bit_length() - 1))


def forward(
    kind: Kind,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    chunk: int | None = None,
) -> Pair:
    """As `reference.forward`, a chunk of rows at a time."""
    size = chunk_of(rows.shape[0], columns.shape[0], chunk)
    lowest = jnp.finfo(given.wide).min / 2

    def one(by_column: Array, part: tuple) -> tuple[Array, Array]:
        x, row, counts = part
        every = _scores(kind, given, x, row)[1]
        wanted = counts[:, None] & columns[None]
        if kind.reduction == "softplus":
            return by_column, jnp.sum(jnp.where(wanted, jax.nn.softplus(every), 0), axis=1)
        every = jnp.where(wanted, every, lowest)
        by_column = jnp.logaddexp(by_column, jax.nn.logsumexp(every, axis=0))
        return by_column, jax.nn.logsumexp(every, axis=1)

    softplus = kind.reduction == "softplus"
    first = jnp.full(columns.shape, 0 if softplus else lowest, given.wide)
    by_column, by_row = lax.scan(one, first, _parts(size, given.x, given.row, rows))
    by_row = by_row.reshape(-1)[: rows.shape[0]]
    by_row = jnp.where(rows & jnp.any(columns), by_row, 0)
    return by_row, jnp.where(columns & jnp.any(rows), by_column, 0)


def backward(
    kind: Kind,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    positives: Positives,
    found: Pair,
    grads: Pair,
    *,
    chunk: int | None = None,
) -> Operands:
    """As `reference.backward`, in chunks of rows; `grads` of what does not count are zero."""
    size = chunk_of(rows.shape[0], columns.shape[0], chunk)
    right, by_column = positives.counting(rows, columns), grads[1]
    own_column = by_column * right.column_share

    def one(sums: tuple, part: tuple) -> tuple[tuple, tuple]:
        x, row, counts, total, grad, mine, own = part
        products, every = _scores(kind, given, x, row)
        wanted = counts[:, None] & columns[None]
        same = mine[:, None] == right.columns[None]
        own_row, own_top = (jnp.where(same, part, 0) for part in (own[:, None], own_column))
        if kind.reduction == "softplus":
            slope = grad[:, None] * jax.nn.sigmoid(every) - own_row
        else:
            slope = grad[:, None] * jnp.exp(jnp.where(wanted, every - total[:, None], 0)) - own_row
            slope += by_column * jnp.exp(jnp.where(wanted, every - found[1], 0)) - own_top
        slope = jnp.where(wanted, slope, 0)
        column = None if given.column is None else given.column[None]
        side = None if row is None else row[:, None]
        by_products, by_scale, by_side, by_top = kind.slopes(
            slope, products, given.scale, side, column
        )
        narrow = [p.astype(x.dtype) for p in by_products]
        by_x = sum(dot(p, y) for p, y in zip(narrow, given.y, strict=True))
        by_y = jnp.stack([dot(p.T, x) for p in narrow])
        by_bias = jnp.sum(slope) if kind.reduction == "softplus" else 0
        new = (by_y, jnp.sum(by_scale), by_bias, None if by_top is None else by_top.sum(0))
        sums = jax.tree.map(jnp.add, sums, new)
        return sums, (by_x, None if by_side is None else by_side.sum(1))

    zeros = (given.y, given.scale, given.bias, given.column)
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, given.wide), zeros)
    own_row = grads[0] * right.row_share
    parts = _parts(size, given.x, given.row, rows, found[0], grads[0], right.rows, own_row)
    (by_y, by_scale, by_bias, by_top), (by_x, by_side) = lax.scan(one, first, parts)
    count = rows.shape[0]
    by_x = by_x.reshape(-1, given.x.shape[1])[:count]
    by_side = None if by_side is None else by_side.reshape(-1)[:count]
    gradient = Operands(by_x, by_y, by_scale, by_bias, by_side, by_top)
    return jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), gradient, given)


def _scores(kind: Kind, given: Operands, x: Array, row: Array | None) -> tuple[list[Array], Array]:
    products = [dot(x, y.T, kind.precision) for y in given.y]
    side = None if row is None else row[:, None]
    column = None if given.column is None else given.column[None]
    return products, kind.of(products, given.scale, given.bias, side, column)


def _parts(size: int, *arrays: Array | None) -> tuple:
    """Chunks `[c, size, ...]`, the last filled with zeros: of rows that do not count."""

    def one(array: Array) -> Array:
        short = -array.shape[0] % size
        full = jnp.pad(array, [(0, short)] + [(0, 0)] * (array.ndim - 1))
        return full.reshape(-1, size, *array.shape[1:])

    return tuple(None if array is None else one(array) for array in arrays)

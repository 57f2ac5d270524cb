"""The bodies of the Mosaic kernels.

Results by row are kept for each of 128 lanes and those by column for each of 8 sublanes, so that
within a tile nothing crosses lanes or sublanes; they are put together at the end. Tiles are worked
through in groups of columns, so that one group's exponentials run beside the next one's products.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from fusekit_modules.ops.contrastive._tiles import (
    MASKED,
    Ends,
    longer,
    scores,
    softplus,
    weights,
)
from fusekit_modules.ops.contrastive.scores import Kind

LANES, SUBLANES = 128, 8


def forward_kernel(kind: Kind, group: int, *refs: Any) -> None:
    """One tile; results of its rows after their last tile, by column after the last rows."""
    given_ref, x_ref, y_ref, row_mask, column_mask, *sides, row_out, column_out = refs[:-4]
    most, total, top_most, top_total = refs[-4:]
    side, top = sides or (None, None)
    given, ((i, j), (last_i, last_j)) = given_ref.at[0], _place()

    @pl.when(j == 0)
    def _() -> None:
        most[...] = jnp.full(most.shape, 4 * MASKED, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)

    @pl.when(i == 0)
    def _() -> None:
        top_most[j] = jnp.full(top_most.shape[1:], 4 * MASKED, jnp.float32)
        top_total[j] = jnp.zeros(top_total.shape[1:], jnp.float32)

    x, masked = x_ref[...], row_mask[...]
    height = None if side is None else side[...]
    for part in _parts(y_ref.shape[1], group):
        base = None if top is None else top[:, part]
        every = scores(kind, _products(x, y_ref[:, part]), given, height, base)
        top_mask = column_mask[:, part]
        if kind.reduction == "softplus":
            each = jnp.where(top_mask < 0, 0.0, softplus(every))
            total[...] += sum(each[:, lanes] for lanes in _parts(group, LANES))
            continue
        of_row = every + top_mask
        lanes = [of_row[:, lanes] for lanes in _parts(group, LANES)]
        most[...], total[...] = _merged(most[...], total[...], lanes)
        of_column = _sublanes(every + masked)
        merged = _merged_first(top_most[j, :, part], top_total[j, :, part], of_column)
        top_most[j, :, part], top_total[j, :, part] = merged

    @pl.when(j == last_j)
    def _() -> None:
        row_out[...] = _result(kind, most[...], total[...], axis=1)

    @pl.when(i == last_i)
    def _() -> None:
        column_out[...] = _result(kind, top_most[j], top_total[j], axis=0)


def backward_kernel(kind: Kind, size: int, *refs: Any) -> None:
    """All rows of a block with one tile of columns: gradients by both, `size` rows at a time.

    Those by rows are added up from tile to tile, those by columns onto what other rows left. So are
    sums by row; that by column of volumes is written for each block of rows.
    """
    given_ref, x_ref, y_ref, row_ref, column_ref, by_y_in, by_x, by_y, *sums = refs
    given, y, column = given_ref.at[0], y_ref[...], column_ref[...]
    top_mask, of_column = column[4:5], Ends(*(column[at : at + 1] for at in range(4)))
    volume = kind.score == "volume"
    by_rows, by_tops = (sums[:2], sums[2:]) if volume else (sums, [])

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for out in (by_x, *by_rows):
            out[...] = jnp.zeros(out.shape, jnp.float32)

    gathered = [by_y_in[at] for at in range(y.shape[0])]
    tops = [jnp.zeros(out.shape, jnp.float32) for out in by_tops]
    for part in _parts(x_ref.shape[0], size):
        x, row = x_ref[part], row_ref[part]
        products = _products(x, y)
        side, top = (row[:, 5:6], column[5:6]) if volume else (None, None)
        every = scores(kind, products, given, side, top)
        of_row = Ends(*(row[:, at : at + 1] for at in range(4)))
        slope = weights(kind, every, row[:, 4:5] + top_mask, of_row, of_column)
        slopes, summed = [slope], [slope]
        if volume:
            slopes, by_scale, by_side, by_top = kind.slopes(slope, products, given[0], side, top)
            summed = [by_side, by_scale]
            tops = [total + jnp.sum(_sublanes(by_top), axis=0) for total in tops]
        for out, values in zip(by_rows, summed, strict=False):
            out[part] += sum(values[:, lanes] for lanes in _parts(y.shape[1], LANES))
        narrow = [values.astype(x.dtype) for values in slopes]
        by_x[part] += sum(_product(n, y[at], across=0) for at, n in enumerate(narrow))
        gathered = [so_far + _turned(n, x) for so_far, n in zip(gathered, narrow, strict=True)]
    for at, values in enumerate(gathered):
        by_y[at] = values
    for out, values in zip(by_tops, tops, strict=True):
        out[...] = values


def packed(*values: Array | None) -> Array:
    """Numbers by row or by column as the backward kernel reads them: `[8, n]`, float32."""
    known = [value.astype(jnp.float32) for value in values if value is not None]
    return longer(jnp.stack([longer(value, known[0].shape[0]) for value in known]), SUBLANES)


def _place() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    both = (0, 1)
    here = tuple(pl.program_id(axis) for axis in both)
    last = tuple(pl.num_programs(axis) - 1 for axis in both)
    return (here[0], here[1]), (last[0], last[1])


def _parts(size: int, each: int) -> list[slice]:
    return [slice(first, first + each) for first in range(0, size, each)]


def _product(a: Array, b: Array, across: int = 1) -> Array:
    return lax.dot_general(a, b, (((1,), (across,)), ((), ())), preferred_element_type=jnp.float32)


def _products(x: Array, y: Array) -> list[Array]:
    return [_product(x, y[at]) for at in range(y.shape[0])]


def _turned(a: Array, b: Array) -> Array:
    """The product of the transpose."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _sublanes(values: Array) -> Array:
    """Rows by sublane, the second of three axes."""
    return values.reshape(-1, SUBLANES, values.shape[1])


def _merged(most: Array, total: Array, more: list[Array]) -> tuple[Array, Array]:
    new = most
    for values in more:
        new = jnp.maximum(new, values)
    return new, total * jnp.exp2(most - new) + sum(jnp.exp2(values - new) for values in more)


def _merged_first(most: Array, total: Array, more: Array) -> tuple[Array, Array]:
    new = jnp.maximum(most, jnp.max(more, axis=0))
    return new, total * jnp.exp2(most - new) + jnp.sum(jnp.exp2(more - new[None]), axis=0)


def _result(kind: Kind, most: Array, total: Array, axis: int) -> Array:
    if kind.reduction == "softplus":
        return jnp.sum(total, axis=axis, keepdims=True)
    highest = jnp.max(most, axis=axis, keepdims=True)
    summed = jnp.sum(total * jnp.exp2(most - highest), axis=axis, keepdims=True)
    return highest + jnp.log2(summed)

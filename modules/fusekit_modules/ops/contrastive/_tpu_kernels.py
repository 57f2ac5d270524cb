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

from fusekit_modules.ops.contrastive._tiles import MASKED, Ends, scores, softplus, weights
from fusekit_modules.ops.contrastive.scores import Kind

LANES, SUBLANES = 128, 8


def forward_kernel(kind: Kind, group: int, *refs: Any) -> None:
    """One tile; results of its rows after their last tile, by column after the last rows."""
    given_ref, x_ref, y_ref, row_mask, column_mask, row_out, column_out, *kept = refs
    most, total, top_most, top_total = kept
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
    for part in _parts(y_ref.shape[0], group):
        every = scores(kind, [_product(x, y_ref[part])], given, None, None)
        top_mask = column_mask[:, part]
        if kind.reduction == "softplus":
            each = jnp.where(top_mask < 0, 0.0, softplus(every))
            total[...] += sum(each[:, lanes] for lanes in _parts(group, LANES))
            continue
        of_row = every + top_mask
        lanes = [of_row[:, lanes] for lanes in _parts(group, LANES)]
        most[...], total[...] = _merged(most[...], total[...], lanes)
        of_column = (every + masked).reshape(-1, SUBLANES, group)
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

    Those by rows are added up from tile to tile, those by columns onto what other rows left.
    """
    given_ref, x_ref, y_ref, row_ref, column_ref, by_y_in, by_x, by_y, *sums = refs
    given, y, column = given_ref.at[0], y_ref[...], column_ref[...]
    top_mask, of_column = column[4:5], Ends(*(column[at : at + 1] for at in range(4)))

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for out in (by_x, *sums):
            out[...] = jnp.zeros(out.shape, jnp.float32)

    gathered = by_y_in[...]
    for part in _parts(x_ref.shape[0], size):
        x, row = x_ref[part], row_ref[part]
        every = scores(kind, [_product(x, y)], given, None, None)
        of_row = Ends(*(row[:, at : at + 1] for at in range(4)))
        slope = weights(kind, every, row[:, 4:5] + top_mask, of_row, of_column)
        for out in sums:
            out[part] += sum(slope[:, lanes] for lanes in _parts(y.shape[0], LANES))
        narrow = slope.astype(x.dtype)
        by_x[part] += _product(narrow, y, across=0)
        gathered += lax.dot_general(
            narrow, x, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
    by_y[...] = gathered


def _place() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    both = (0, 1)
    here = tuple(pl.program_id(axis) for axis in both)
    last = tuple(pl.num_programs(axis) - 1 for axis in both)
    return (here[0], here[1]), (last[0], last[1])


def _parts(size: int, each: int) -> list[slice]:
    return [slice(first, first + each) for first in range(0, size, each)]


def _product(a: Array, b: Array, across: int = 1) -> Array:
    return lax.dot_general(a, b, (((1,), (across,)), ((), ())), preferred_element_type=jnp.float32)


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

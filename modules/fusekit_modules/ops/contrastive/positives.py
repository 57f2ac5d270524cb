"""Which columns are right for which rows, and their scores, without a matrix of which is which."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from fusekit_modules.ops.contrastive.reference import Pair
from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives


def own_only(rows: Bool[Array, "b"], columns: Bool[Array, "n"], dtype: jnp.dtype) -> Positives:
    """Row i and column i are right for each other, where both count."""
    both = min(rows.shape[0], columns.shape[0])
    paired = (rows[:both] & columns[:both]).astype(dtype)
    shares = (jnp.pad(paired, (0, counts.shape[0] - both)) for counts in (rows, columns))
    numbers = (jnp.arange(counts.shape[0], dtype=jnp.int32) for counts in (rows, columns))
    return Positives(*numbers, *shares)


def of_one_key(
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    row_keys: Shaped[Array, "b"],
    column_keys: Shaped[Array, "n"],
    dtype: jnp.dtype,
) -> Positives:
    """All that count and have the same key, in even shares; a NaN equals nothing."""
    keys = jnp.concatenate([row_keys, column_keys])
    size, count = keys.shape[0], row_keys.shape[0]
    groups = jnp.searchsorted(jnp.sort(keys), keys, method="sort").astype(jnp.int32)
    groups = jnp.where(keys == keys, groups, size)
    mine, theirs = groups[:count], groups[count:]

    def share(counts: Array, of: Array, asked: Array) -> Array:
        number = jax.ops.segment_sum(counts.astype(dtype), of, size)
        number = jnp.where(asked < size, number[jnp.minimum(asked, size - 1)], 0)
        return jnp.where(number > 0, 1 / jnp.maximum(number, 1), 0)

    row_share = jnp.where(rows, share(columns, theirs, mine), 0)
    column_share = jnp.where(columns, share(rows, mine, theirs), 0)
    return Positives(mine, theirs, row_share, column_share)


def right_scores(
    kind: Kind,
    given: Operands,
    positives: Positives,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    own: bool,
) -> Pair:
    """Sums of the right scores by row and by column, summed in float32 and apart from all others.

    Vectors of what does not count are zeros. Unless `own`, scores are dot products, and a row's sum
    is a product with the sum of the vectors that are right.
    """
    x, y = given.x.astype(given.wide), given.y.astype(given.wide)
    both, (size, count) = min(x.shape[0], y.shape[1]), (x.shape[0], y.shape[1])
    if own:
        products = [jnp.sum(x[:both] * other[:both], axis=1) for other in y]
        sides = (None if side is None else side[:both] for side in (given.row, given.column))
        scores = kind.of(products, given.scale, given.bias, *sides)
        scores = jnp.where(rows[:both] & columns[:both], scores, 0)
        return jnp.pad(scores, (0, size - both)), jnp.pad(scores, (0, count - both))

    def summed(values: Array, numbers: Array, asked: Array) -> Array:
        sums = jax.ops.segment_sum(values, numbers, size + count)
        return sums[jnp.minimum(asked, size + count - 1)]

    by_row = jnp.sum(x * summed(y[0], positives.columns, positives.rows), axis=1)
    by_column = jnp.sum(y[0] * summed(x, positives.rows, positives.columns), axis=1)
    return given.scale * by_row, given.scale * by_column

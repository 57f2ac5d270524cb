"""What the kernels share: how operands are filled up to whole tiles, and what their gradient is."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives

LOG2E = math.log2(math.e)
MASKED = -1e30
"""Added to the scores of what does not count."""


def longer(values: Array, size: int, axis: int = 0) -> Array:
    """Zeros behind, up to this size."""
    short = size - values.shape[axis]
    if not short:
        return values
    return jnp.pad(values, [(0, short if at == axis else 0) for at in range(values.ndim)])


def filled(
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    row_multiple: int,
    column_multiple: int,
    width_multiple: int,
) -> tuple[Operands, Array, Array]:
    """Operands of whole tiles, and what is added to scores by row and by column."""
    size, count, width = (
        -(-number // multiple) * multiple
        for number, multiple in (
            (rows.shape[0], row_multiple),
            (columns.shape[0], column_multiple),
            (given.x.shape[1], width_multiple),
        )
    )
    full = given._replace(
        x=longer(longer(given.x, width, 1), size),
        y=longer(longer(given.y, width, 2), count, 1),
        row=None if given.row is None else longer(given.row, size),
        column=None if given.column is None else longer(given.column, count),
    )
    return full, masked(longer(rows, size)), masked(longer(columns, count))


def masked(counts: Bool[Array, "n"]) -> Array:
    """What is added to scores."""
    return jnp.where(counts, 0.0, MASKED).astype(jnp.float32)


def scalars(given: Operands) -> Array:
    """Scale and bias, and both for scores in powers of two."""
    both = jnp.stack([given.scale, given.bias]).astype(jnp.float32)
    return jnp.concatenate([both, LOG2E * both])


def scores(kind: Kind, products: list[Array], given: Any, row: Any, column: Any) -> Array:
    """Of a tile; in powers of two where these are summed. `given` is indexed as `scalars` is."""
    first = 0 if kind.reduction == "softplus" else 2
    return kind.of(products, given[first], given[first + 1], row, column)


class Ends(NamedTuple):
    """Of rows or of columns, what gradients by scores are made of.

    Args:
      total: what was found, times `LOG2E`.
      grad: the gradient by it.
      number: that of positives.
      own: the gradient by each right score.
    """

    total: Array
    grad: Array
    number: Array
    own: Array


def ends(
    found: tuple[Array, Array],
    grads: tuple[Array, Array],
    right: Positives,
    sizes: tuple[int, int],
) -> tuple[Ends, Ends]:
    """Of rows and of columns, filled up to these sizes."""
    numbers = (right.rows, right.row_share), (right.columns, right.column_share)
    row, column = (
        Ends(*(longer(v, size) for v in (LOG2E * total, grad, number, -grad * share)))
        for total, grad, (number, share), size in zip(found, grads, numbers, sizes, strict=True)
    )
    return row, column


def weights(kind: Kind, every: Array, masked: Array, row: Ends, column: Ends) -> Array:
    """Gradients by scores of a tile. `masked` is added to scores, so that nothing comes of what
    does not count; right scores are taken off before anything is rounded."""
    own = jnp.where(row.number == column.number, row.own + column.own, 0.0)
    if kind.reduction == "softplus":
        return row.grad / (1 + jnp.exp2(jnp.minimum(-LOG2E * every, 126) - masked)) + own
    every = every + masked
    of_row = row.grad * jnp.exp2(every - row.total)
    return of_row + column.grad * jnp.exp2(every - column.total) + own


def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp2(-LOG2E * jnp.abs(x)))


def gradient(kind: Kind, given: Operands, by_x: Array, by_y: Array, sums: list[Array]) -> Operands:
    """By the operands, from sums over whole tiles.

    Args:
      by_x, by_y: `[b, d]` and `[m, n, d]`, of a dot product not yet times the scale.
      sums: of `softplus`, by row of the gradients by scores; of volumes, by row of those by `row`
        and by the scale, and by column of those by `column`.
    """
    by_x = by_x[: given.x.shape[0], : given.x.shape[1]]
    by_y = by_y[:, : given.y.shape[1], : given.x.shape[1]]
    by_bias, by_row, by_column = jnp.zeros(()), None, None
    if kind.score == "dot":
        by_scale = jnp.sum(given.x.astype(jnp.float32) * by_x)
        by_x, by_y = given.scale * by_x, given.scale * by_y
        by_bias = jnp.sum(sums[0]) if sums else by_bias
    else:
        by_row, by_scale = sums[0][: given.x.shape[0]], jnp.sum(sums[1])
        by_column = sums[2][: given.y.shape[1]]
    found = Operands(by_x, by_y, by_scale, by_bias, by_row, by_column)
    return jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), found, given)

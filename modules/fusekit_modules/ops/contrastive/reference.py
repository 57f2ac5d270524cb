"""The obvious form: all scores at once, gradients by autodiff. Float32, or float64 if given."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives

Pair = tuple[Float[Array, "b"], Float[Array, "n"]]


def forward(kind: Kind, given: Operands, rows: Bool[Array, "b"], columns: Bool[Array, "n"]) -> Pair:
    """By row over the columns that count, and by column over the rows that count: the log of the
    summed exponentials of the scores; or of `softplus` the sum, and zeros by column. Zero in what
    does not count and where nothing counts."""
    every, wanted = _scores(kind, given), rows[:, None] & columns[None]
    if kind.reduction == "softplus":
        sums = jnp.sum(jnp.where(wanted, jax.nn.softplus(every), 0), axis=1)
        return sums, jnp.zeros(columns.shape, every.dtype)
    every = jnp.where(wanted, every, jnp.finfo(every.dtype).min)
    by_row = jnp.where(jnp.any(wanted, axis=1), jax.nn.logsumexp(every, axis=1), 0)
    by_column = jnp.where(jnp.any(wanted, axis=0), jax.nn.logsumexp(every, axis=0), 0)
    return by_row, by_column


def backward(
    kind: Kind,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    positives: Positives,
    found: Pair,
    grads: Pair,
) -> Operands:
    """The gradient by the operands, from those by what `forward` found less the right scores.

    Each side by itself: so what is nearly won is the difference of a share and of one, and not of
    two shares and of two. Nothing is rounded before all is summed.
    """
    del found
    full = jax.tree.map(lambda leaf: leaf.astype(given.wide), given)
    right = positives.counting(rows, columns)
    same = right.rows[:, None] == right.columns[None]
    shares = positives.row_share, positives.column_share

    def less(side: int, given: Operands) -> Array:
        own = jnp.sum(jnp.where(same, _scores(kind, given), 0), axis=1 - side)
        return forward(kind, given, rows, columns)[side] - shares[side] * own

    found_by = (jax.vjp(partial(less, side), full)[1](grads[side])[0] for side in (0, 1))
    return jax.tree.map(lambda a, b, leaf: (a + b).astype(leaf.dtype), *found_by, given)


def _scores(kind: Kind, given: Operands) -> Float[Array, "b n"]:
    wide = given.wide
    x, y = given.x.astype(wide), given.y.astype(wide)
    products = jnp.einsum("bd,mnd->mbn", x, y, precision=kind.precision)
    row = None if given.row is None else given.row[:, None]
    column = None if given.column is None else given.column[None]
    return kind.of(list(products), given.scale, given.bias, row, column)

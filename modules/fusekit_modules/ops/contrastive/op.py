"""Contrastive losses by row, whose scores never stand in memory all at once."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from fusekit.context import Context
from fusekit_modules.ops.contrastive.given import How, multiplied, only, scalar
from fusekit_modules.ops.contrastive.positives import of_one_key, own_only
from fusekit_modules.ops.contrastive.reduce import plan, surprise
from fusekit_modules.ops.contrastive.scores import Kind, Operands
from fusekit_modules.ops.target import Target


def info_nce(
    x: Float[Array, "b d"],
    y: Float[Array, "n d"],
    scale: Float[Array, ""],
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    keys: Shaped[Array, "b"] | None = None,
    column_keys: Shaped[Array, "n"] | None = None,
    place: Any = None,
    target: Target | None = None,
    forward: str = "auto",
    backward: str = "auto",
    context: Context | None = None,
) -> tuple[Float[Array, "b"], Float[Array, "n"]]:
    """Cross-entropies of telling the right columns of each row, and rows of each column.

    By row i, log sum_j exp(s x_i y_j) over the columns that count, minus the mean of s x_i y_j
    over its positives (van den Oord et al. 2018, equation 4; of both sides, Radford et al. 2021,
    figure 3). By column likewise. Nothing of the size `[b, n]` is held by any backend but
    `reference`.

    Args:
      x, y: of rows and columns, as they are to be compared.
      scale: s, one over the temperature.
      rows, columns: which of them count; contents of the others are not read.
      keys, column_keys: positives are those of one key; without, row i and column i.
      place: a layout, mesh or device that the program is compiled for; rows and columns are cut
        over it.
      target: the kind of device, where there is no `place`; default a CPU.
      forward, backward: backends, by name or `auto`.
      context: of the component that asks, in place of these and of `place`.

    Returns:
      `[b]` and `[n]`, in float32 or wider; zero in what does not count or has no positive.

    Raises `BackendError` if a backend asked for cannot.
    """
    kind, how = Kind(), How.of(place, target, forward, backward, context)
    x, y = (multiplied(only(*pair), how.target) for pair in ((x, rows), (y, columns)))
    given = Operands(x, y[None], scalar(scale, x), scalar(0, x))
    run = plan(kind, given, how, own=keys is None)
    if keys is None:
        right = own_only(rows, columns, given.wide)
    else:
        others = keys if column_keys is None else column_keys
        right = of_one_key(rows, columns, keys, others, given.wide)
    found: Any = surprise(run, given, rows, columns, right)
    by_row, by_column = found
    return jnp.where(right.row_share > 0, by_row, 0), jnp.where(
        right.column_share > 0, by_column, 0
    )


def siglip(
    x: Float[Array, "b d"],
    y: Float[Array, "b d"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    rows: Bool[Array, "b"],
    *,
    place: Any = None,
    target: Target | None = None,
    forward: str = "auto",
    backward: str = "auto",
    context: Context | None = None,
) -> Float[Array, "b"]:
    """By row i, -log sigmoid(l_ii) - sum over j of log sigmoid(-l_ij), l = s x y + bias (Zhai et
    al. 2023, algorithm 1). As `info_nce`; row i and column i are of one sample."""
    how = How.of(place, target, forward, backward, context)
    x, y = (multiplied(only(values, rows), how.target) for values in (x, y))
    given = Operands(x, y[None], scalar(scale, x), scalar(bias, x))
    run = plan(Kind(reduction="softplus"), given, how)
    found: Any = surprise(run, given, rows, rows, own_only(rows, rows, given.wide))
    return found[0]

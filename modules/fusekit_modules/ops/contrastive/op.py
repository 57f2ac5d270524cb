"""Contrastive losses by row, whose scores never stand in memory all at once."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from fusekit_modules.ops.contrastive.positives import of_one_key, own_only
from fusekit_modules.ops.contrastive.reduce import plan, surprise
from fusekit_modules.ops.contrastive.scores import Kind, Operands
from fusekit_modules.ops.contrastive.volumes import orthonormal, volumes
from fusekit_modules.ops.target import Target

CPU = Target("cpu")


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
      place: a layout or mesh that the program is compiled for; rows and columns are cut over it.
      target: the kind of device, where there is no `place`; default a CPU.
      forward, backward: backends, by name or `auto`.

    Returns:
      `[b]` and `[n]`, in float32 or wider; zero in what does not count or has no positive.

    Raises `BackendError` if a backend asked for cannot.
    """
    kind, target = Kind(), _target(place, target)
    x, y = (multiplied(_only(*pair), target) for pair in ((x, rows), (y, columns)))
    given = Operands(x, y[None], _scalar(scale, x), _scalar(0, x))
    own = keys is None
    options = {"forward": forward, "backward": backward, "layout": _layout(place)}
    how = plan(kind, given, target, own=own, **options)
    if keys is None:
        right = own_only(rows, columns, given.wide)
    else:
        others = keys if column_keys is None else column_keys
        right = of_one_key(rows, columns, keys, others, given.wide)
    found: Any = surprise(how, given, rows, columns, right)
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
) -> Float[Array, "b"]:
    """By row i, -log sigmoid(l_ii) - sum over j of log sigmoid(-l_ij), l = s x y + bias (Zhai et
    al. 2023, algorithm 1). As `info_nce`; row i and column i are of one sample."""
    kind, target = Kind(reduction="softplus"), _target(place, target)
    x, y = (multiplied(_only(values, rows), target) for values in (x, y))
    given = Operands(x, y[None], _scalar(scale, x), _scalar(bias, x))
    how = plan(kind, given, target, forward=forward, backward=backward, layout=_layout(place))
    found: Any = surprise(how, given, rows, rows, own_only(rows, rows, given.wide))
    return found[0]


def gram(
    anchor: Float[Array, "b d"],
    others: list[Float[Array, "b d"]],
    scale: Float[Array, ""],
    rows: Bool[Array, "b"],
    *,
    place: Any = None,
    target: Target | None = None,
    forward: str = "auto",
    backward: str = "auto",
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Cross-entropies of -s V over the others' rows and over anchors, where V is the volume that
    an anchor and the others of one row span (Cicchetti et al. 2025).

    As `info_nce`. But for `reference`, the squared height of an anchor above the others' span is
    a difference of squares, of products with an orthonormal basis; no determinant of pairs is
    taken. So volumes of unit vectors below about 1e-3 are of rounding errors, of bfloat16 below
    about 0.1; `reference` is exact, see `volumes`.
    """
    kind, target = Kind("volume"), _target(place, target)
    anchor, others = _only(anchor, rows), [_only(other, rows) for other in others]
    wide = jnp.promote_types(anchor.dtype, jnp.float32)
    basis, square = orthonormal([other.astype(wide) for other in others])
    given = Operands(
        anchor,
        jnp.stack(basis).astype(anchor.dtype),
        _scalar(scale, anchor),
        _scalar(0, anchor),
        jnp.sum(jnp.square(anchor.astype(wide)), axis=1),
        jnp.where(rows, square, 0),
    )
    how = plan(kind, given, target, forward=forward, backward=backward, layout=_layout(place))
    if how.forward == "reference":
        every = -given.scale * volumes(anchor.astype(wide), [v.astype(wide) for v in others])
        wanted, own = rows[:, None] & rows[None], jnp.diagonal(every)
        every = jnp.where(wanted, every, jnp.finfo(wide).min)
        by_row, by_column = (jax.nn.logsumexp(every, axis=axis) - own for axis in (1, 0))
        return jnp.where(rows, by_row, 0), jnp.where(rows, by_column, 0)
    found: Any = surprise(how, given, rows, rows, own_only(rows, rows, given.wide))
    return found


def multiplied(values: Float[Array, "*b d"], target: Target) -> Float[Array, "*b d"]:
    """Float32 rounded to what the target multiplies by default: bfloat16 on TPUs, the 10 bits of
    TF32 on GPUs. So that own scores, summed apart, are of the same vectors as all others: else a
    contrast that is nearly won would be of rounding errors. Not where
    `jax.default_matmul_precision` asks for more."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if values.dtype != jnp.float32 or asked not in (None, "default"):
        return values
    if target.platform == "tpu":
        return values.astype(jnp.bfloat16)
    return jax.lax.reduce_precision(values, 8, 10) if target.platform == "gpu" else values


def _only(values: Array, counts: Array) -> Array:
    return jnp.where(counts[:, None], values, jnp.zeros((), values.dtype))


def _scalar(value: Any, like: Array) -> Array:
    return jnp.asarray(value, jnp.promote_types(like.dtype, jnp.float32))


def _layout(place: Any) -> Any:
    return place if hasattr(place, "activations") else None


def _target(place: Any, target: Target | None) -> Target:
    if target is not None:
        return target
    return CPU if place is None else Target.of(place)

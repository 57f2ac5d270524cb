"""Contrastive losses by row of more than two vectors a sample."""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit_modules.ops.contrastive.given import How, multiplied, only, scalar
from fusekit_modules.ops.contrastive.op import info_nce
from fusekit_modules.ops.contrastive.positives import own_only
from fusekit_modules.ops.contrastive.reduce import plan, surprise
from fusekit_modules.ops.contrastive.scores import Kind, Operands
from fusekit_modules.ops.contrastive.volumes import orthonormal, volumes
from fusekit_modules.ops.target import Target

COLUMNS = 1 << 13
"""About so many combinations of the others' rows are multiplied out at once."""


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
    context: Context | None = None,
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Cross-entropies of -s V over the others' rows and over anchors, where V is the volume that
    an anchor and the others of one row span (Cicchetti et al. 2025).

    As `info_nce`. But for `reference`, the squared height of an anchor above the others' span is
    a difference of squares, of products with an orthonormal basis; no determinant of pairs is
    taken. So volumes of unit vectors below about 1e-3 are of rounding errors, of bfloat16 below
    about 0.1; `reference` is exact, see `volumes`.
    """
    anchor, others = only(anchor, rows), [only(other, rows) for other in others]
    wide = jnp.promote_types(anchor.dtype, jnp.float32)
    basis, square = orthonormal([other.astype(wide) for other in others])
    given = Operands(
        anchor,
        jnp.stack(basis).astype(anchor.dtype),
        scalar(scale, anchor),
        scalar(0, anchor),
        jnp.sum(jnp.square(anchor.astype(wide)), axis=1),
        jnp.where(rows, square, 0),
    )
    run = plan(Kind("volume"), given, How.of(place, target, forward, backward, context))
    if run.forward == run.backward == "reference":
        every = -given.scale * volumes(anchor.astype(wide), [v.astype(wide) for v in others])
        wanted, own = rows[:, None] & rows[None], jnp.diagonal(every)
        every = jnp.where(wanted, every, jnp.finfo(wide).min)
        by_row, by_column = (jax.nn.logsumexp(every, axis=axis) - own for axis in (1, 0))
        return jnp.where(rows, by_row, 0), jnp.where(rows, by_column, 0)
    found: Any = surprise(run, given, rows, rows, own_only(rows, rows, given.wide))
    return found


def symile(
    vectors: Sequence[Float[Array, "b d"]],
    scale: Float[Array, ""],
    rows: Bool[Array, "b"],
    *,
    negatives: Literal["all", "samples"] = "all",
    **options: Any,
) -> Float[Array, "b"]:
    """Cross-entropies of the multilinear inner products s sum_d x_d y_d z_d ..., each vector in
    turn the anchor, averaged over these (Saporta et al. 2024).

    As `info_nce`, whose `options` it takes, with products of the others' rows as columns: those
    of one row for `samples`, every combination for `all`. Of the latter some `COLUMNS` are
    multiplied out at once, and again for the gradient. They are made in float32 or wider, and
    rounded once.
    """
    vectors = [only(vector, rows) for vector in vectors]
    wide = [vector.astype(jnp.promote_types(vector.dtype, jnp.float32)) for vector in vectors]
    each = jnp.zeros(rows.shape, wide[0].dtype)
    for index, anchor in enumerate(vectors):
        others = [*wide[:index], *wide[index + 1 :]]
        product = math.prod(others[1:], start=others[0]).astype(anchor.dtype)
        if negatives == "samples":
            each = each + info_nce(anchor, product, scale, rows, rows, **options)[0]
        else:
            each = each + _among_all(anchor, product, others, scale, rows, options)
    return each / len(vectors)


def _among_all(
    anchor: Array, product: Array, others: list[Array], scale: Array, rows: Array, options: Any
) -> Array:
    """Of one anchor. The first of the others is gone through in chunks of rows."""
    whole = reduce(_pairs, others[1:])
    wanted = reduce(lambda a, b: (a[:, None] & b).reshape(-1), [rows] * (len(others) - 1))
    chunks = -(-len(rows) // max(1, COLUMNS // len(wanted)))
    size = -(-len(rows) // chunks)
    told = partial(_totals, anchor, scale, rows, **options)

    @jax.checkpoint
    def one(so_far: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        values, counts = part
        columns = (counts[:, None] & wanted).reshape(-1)
        return jnp.logaddexp(so_far, told(_pairs(values, whole), columns)), None

    short = -len(rows) % size
    values = jnp.pad(others[0], ((0, short), (0, 0))).reshape(-1, size, anchor.shape[1])
    counts = jnp.pad(rows, (0, short)).reshape(-1, size)
    wide = jnp.promote_types(anchor.dtype, jnp.float32)
    nothing = jnp.full(rows.shape, jnp.finfo(wide).min / 2)
    total, _ = lax.scan(one, nothing, (values, counts))
    own = scale * jnp.sum(anchor.astype(wide) * product.astype(wide), axis=1)
    return jnp.where(rows, total - own, 0)


def _pairs(a: Float[Array, "b d"], b: Float[Array, "c d"]) -> Float[Array, "n d"]:
    """Products of every row of one with every row of the other."""
    return (a[:, None] * b).reshape(-1, a.shape[1])


def _totals(x: Array, scale: Array, rows: Array, y: Array, columns: Array, **options: Any) -> Array:
    """By row, the log of the summed exponentials over the columns that count."""
    how, y = How.of(**options), y.astype(x.dtype)
    x, y = multiplied(x, how.target), multiplied(only(y, columns), how.target)
    given = Operands(x, y[None], scalar(scale, x), scalar(0, x))
    none = own_only(rows & False, columns & False, given.wide)
    found: Any = surprise(plan(Kind(), given, how), given, rows, columns, none)
    return jnp.where(jnp.any(columns), found[0], jnp.finfo(given.wide).min / 2)

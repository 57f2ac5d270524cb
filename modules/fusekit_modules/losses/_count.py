"""What the losses share: which rows and positions count, and sums over them.

What does not count is replaced before any arithmetic, so that it reaches neither value nor
gradient; a loss in which nothing counts is zero, with zero gradient.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.component import LossValue, Signatures
from fusekit.errors import WiringError
from fusekit.stream import Stream


def wide(values: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """In float32 or wider."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def counted(
    streams: Mapping[str, Stream], rows: Bool[Array, "b"], *, tokens: int | None
) -> Bool[Array, "b *t"]:
    """Rows `[b]`, or with `tokens` positions `[b, tokens]`, that are valid in every stream.

    The stream `where`, of rows or of positions, counts where it is not zero.
    """
    where = streams.get("where")
    if tokens is None:
        return rows if where is None else rows & (where.values != 0)
    valid = jnp.broadcast_to(rows[:, None], (rows.shape[0], tokens))
    for stream in streams.values():
        if stream.mask is not None:
            valid = valid & stream.mask
    if where is None:
        return valid
    marked = where.values != 0
    return valid & (marked if marked.ndim == 2 else marked[:, None])


def keep(values: Array, valid: Bool[Array, "b *t"], otherwise: float | int = 0) -> Array:
    """`values` where they count, `otherwise` elsewhere; values may have further axes."""
    full = valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim))
    return jnp.where(full, values, jnp.asarray(otherwise, values.dtype))


def summed(
    each: Float[Array, "b *t"], valid: Bool[Array, "b *t"], weight: Array | None = None
) -> LossValue:
    """By row, the sum of what counts and the sum of its weights (default one each)."""
    axes = tuple(range(1, each.ndim))
    weights = jnp.ones_like(each) if weight is None else weight
    return LossValue(
        jnp.sum(keep(each, valid), axis=axes), jnp.sum(keep(weights, valid), axis=axes)
    )


def check_where(inputs: Signatures, length: int | None) -> None:
    """`where` marks rows, or positions of a sequence of this length. Raises `WiringError`."""
    where = inputs.get("where")
    if where is None or where.kind == "scalar":
        return
    if length is not None and where.axes == ("time",) and where.length == length:
        return
    raise WiringError(
        "where marks neither rows nor the positions that the loss reads",
        found=where,
        expected="a scalar" if length is None else f"a scalar, or a mask of {length} positions",
        field=("where",),
    )

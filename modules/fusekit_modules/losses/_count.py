"""What the losses share: which rows and positions count, and sums over them.

What does not count is replaced before any arithmetic, so that it reaches neither value nor
gradient; a loss in which nothing counts is zero, with zero gradient.
"""

from collections.abc import Mapping
from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.component import LossValue, Signatures
from fusekit.errors import WiringError
from fusekit.stream import Stream


def wide(values: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """In float32 or wider."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


Sizes = tuple[int, ...]


def counted(
    streams: Mapping[str, Stream], rows: Bool[Array, "b"], *, tokens: int | Sizes | None
) -> Bool[Array, "b *t"]:
    """Rows `[b]`, or with `tokens` positions `[b, *tokens]`, that are valid in every stream.

    Masks are of the first axis of positions. The stream `where`, of rows, of that axis or of all
    positions, counts where it is not zero.
    """
    sizes = (tokens,) if isinstance(tokens, int) else tokens or ()
    shape = (rows.shape[0], *sizes)
    marks = [rows] + ([streams["where"].values != 0] if "where" in streams else [])
    if sizes:
        marks += [stream.mask for stream in streams.values() if stream.mask is not None]
    full = [mark.reshape(mark.shape + (1,) * (len(shape) - mark.ndim)) for mark in marks]
    return jnp.broadcast_to(reduce(jnp.logical_and, full), shape)


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


def check_where(inputs: Signatures, length: int | Sizes | None) -> None:
    """`where` marks rows, or positions of a sequence of this length, or of a grid of these sizes:
    all of them, or those of its first axis. Raises `WiringError`."""
    where = inputs.get("where")
    if where is None or where.kind == "scalar":
        return
    sizes = (length,) if isinstance(length, int) else length or ()
    if sizes and where.shape == sizes and where.axes[-1:] != ("embed",):
        return
    if len(sizes) > 1 and where.axes == ("time",) and where.length == sizes[0]:
        return
    positions = " x ".join(map(str, sizes))
    raise WiringError(
        "where marks neither rows nor the positions that the loss reads",
        found=where,
        expected=f"a scalar, or a mask of {positions} positions" if sizes else "a scalar",
        field=("where",),
    )

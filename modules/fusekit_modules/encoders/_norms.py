"""The norms that maps may have."""

from typing import Literal

from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit_modules.layers.batch_norm import BatchNorm
from fusekit_modules.layers.group_norm import GroupNorm

MapNormName = Literal["batch", "group", "none"]
MapNorm = BatchNorm | GroupNorm | None


def made_norm(name: MapNormName, width: int, groups: int, *, rngs: nnx.Rngs) -> MapNorm:
    """The norm of that name; none for `none`."""
    if name == "none":
        return None
    return BatchNorm(width, rngs=rngs) if name == "batch" else GroupNorm(width, groups, rngs=rngs)


def normed(
    norm: MapNorm,
    x: Float[Array, "b *n c"],
    mask: Bool[Array, "b i"] | None,
    valid: Bool[Array, "b *m"] | None,
    *,
    context: Context,
) -> Float[Array, "b *n c"]:
    """`mask` is of the places of a sample, `valid` of what counts in statistics over the batch:
    samples, or their places."""
    if isinstance(norm, BatchNorm):
        return norm(x, valid, context=context)
    return x if norm is None else norm(x, mask)

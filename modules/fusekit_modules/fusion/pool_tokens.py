"""Means or maxima over windows of tokens."""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool
from pydantic import Field

from fusekit.component import Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    Grid,
    Sizes,
    data,
    fitted,
    grid_of,
    joined,
    joined_signature,
    made,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.fusion._latents import embed_grid
from fusekit_modules.layers.largest import largest as first_largest
from fusekit_modules.layers.wide import wide


@register
class PoolTokensSpec(CompressorSpec):
    """One token for each window of a grid or sequence; with `tokens`, windows are chosen so that so
    many come out along each axis, as adaptive pooling does: from floor(i n / m) to
    ceil((i + 1) n / m).

    Padding has no part in a window, and a window of padding alone is padding. Windows of a padded
    sequence are of valid tokens, side by side whatever stands between; those of a grid keep their
    place. Readout tokens are left out. Windows at an end may be smaller. What is absent is absent.
    """

    type: Literal["pool_tokens"] = "pool_tokens"
    how: Literal["mean", "max"] = Field("mean", description="what is kept of a window")
    window: Sizes = Field((), max_length=3, description="sizes of a window")
    tokens: Sizes = Field((), max_length=3, description="or how many come out along each axis")
    source: Sizes = Field((), description="the grid's sizes, if the input does not know them")

    def grid(self, reads: Signatures) -> Grid:
        """The grid of the input; for one size, the whole sequence. Raises `WiringError`."""
        if bool(self.window) == bool(self.tokens):
            message, due = "windows are given by their size or their number", "window or tokens"
            raise WiringError(message, expected=due, field=("window",))
        given, count = joined_signature(reads), len(self.window or self.tokens)
        if count == 1 and not self.source:
            return embed_grid(given.with_(grid=()), ())
        grid = grid_of(given, self.source, next(iter(reads)))
        if len(grid) != count:
            field = "window" if self.window else "tokens"
            message, due = "the grid has other axes", f"{len(grid)} sizes"
            raise WiringError(message, found=count, expected=due, field=(field,))
        return grid

    def counts(self, grid: Grid) -> Sizes:
        """How many tokens come out along each axis."""
        sizes = [size for _, size in grid]
        pairs = zip(sizes, self.window, strict=False)
        return self.tokens or tuple(-(-size // window) for size, window in pairs)

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        grid = self.grid(reads)
        counts = self.counts(grid)
        after = tuple((axis, count) for (axis, _), count in zip(grid, counts, strict=True))
        after = after if len(after) > 1 else ()
        return made(joined_signature(reads), math.prod(counts), width, grid=after)

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "PoolTokens":
        return PoolTokens(self, reads, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        grid = {"window": [2, 2], "source": [2, 3]}
        return [{"tokens": [4]}, {"how": "max", **grid}, {"window": [4]}]


class PoolTokens(Inserting):
    """`[b, t, d] -> [b, n, width]`."""

    def __init__(self, spec: PoolTokensSpec, reads: Signatures, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        self.how, out, grid = spec.how, spec.infer_tokens(reads, width), spec.grid(reads)
        self.sizes, self.counts = tuple(size for _, size in grid), spec.counts(grid)
        self.spans, self.grid, self.window = out.spans, out.grid, spec.window
        self.proj = fitted(joined_signature(reads).width, width, rngs=rngs)

    def members(self, axis: int, mask: Array | None) -> Bool[Array, "*b n t"]:
        """Which tokens along an axis are of which window."""
        size, count = self.sizes[axis], self.counts[axis]
        rank, valid = jnp.arange(size), jnp.asarray(size)[None, None]
        if mask is not None and len(self.sizes) == 1:
            rank, valid = jnp.cumsum(mask, axis=1) - 1, jnp.sum(mask, 1)[:, None, None]
        here, number = rank[..., None, :], jnp.arange(count)[:, None]
        if self.window:
            start, stop = number * self.window[axis], (number + 1) * self.window[axis]
        else:
            start, stop = number * valid // count, -(-(number + 1) * valid // count)
        return (start <= here) & (here < stop)

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        x = data(joined(streams))
        whole = jnp.ones((x.batch, x.length), bool) if x.mask is None else x.mask
        values = wide(x.values)
        count = whole.astype(values.dtype)
        low = jnp.finfo(values.dtype).min
        if self.how == "max":
            values = jnp.where(whole[..., None], values, low)
        values = values.reshape(x.batch, *self.sizes, x.width)
        count = count.reshape(x.batch, *self.sizes)
        pool = added if self.how == "mean" else partial(largest, low=low)
        for axis in range(len(self.sizes)):
            chosen = self.members(axis, x.mask)
            values = pool(values, axis + 1, chosen)
            count = added(count[..., None], axis + 1, chosen)[..., 0]
        values, count = values.reshape(x.batch, -1, x.width), count.reshape(x.batch, -1)
        if self.how == "mean":
            values = values / jnp.maximum(count, 1)[..., None]
        values, mask = values.astype(x.values.dtype), None if x.mask is None else count > 0
        out = Stream(values, mask, x.presence, spans=self.spans, grid=self.grid).clean()
        return out if self.proj is None else out.with_(values=self.proj(out.values)).clean()


def added(values: Array, axis: int, chosen: Array) -> Array:
    """Sums over what is chosen along an axis."""
    moved = jnp.moveaxis(values, axis, 1)
    flat = moved.reshape(*moved.shape[:2], -1)
    weights = jnp.broadcast_to(chosen, (flat.shape[0], *chosen.shape[-2:])).astype(flat.dtype)
    out = jnp.einsum("bnt,btd->bnd", weights, flat, precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(out.reshape(out.shape[0], -1, *moved.shape[2:]), 1, axis)


def largest(values: Array, axis: int, chosen: Array, *, low: Any) -> Array:
    """Maxima over what is chosen along an axis; `low` where nothing is."""
    moved = jnp.moveaxis(values, axis, 1)
    where = chosen.reshape(*chosen.shape, *(1,) * (moved.ndim - 2))
    out = first_largest(jnp.where(where, moved[:, None], low), axis=2)
    return jnp.moveaxis(out, 1, axis)

"""Tiles of rows of one head, as Triton loads and stores them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

from fusekit_modules.ops.stream_attention.form import Form

LOG2E = 1.4426950408889634


class Rows(NamedTuple):
    """`size` rows from `start` on of an array `[b, t, heads·dim]`, one head of one example.

    Triton's tiles are powers of two, so that rows beyond `length` and columns beyond `dim` are
    masked. `there` is the mask of the rows, with what is absent; `None`: all are there.
    """

    at: tuple[Any, Any, Any]
    wide: int
    dim: int
    there: Array | None

    def load(self, ref: Any) -> Array:
        """`[size, wide]`, zeros for what is not there."""
        mask = self._mask()
        view = ref.at[self.at]
        return view[...] if mask is None else plgpu.load(view, mask=mask, other=0)

    def store(self, ref: Any, tile: Array, within: Array | None) -> None:
        """Writes rows `within` the array; those that are not there become zeros."""
        if self.there is not None:
            tile = jnp.where(self.there[:, None], tile, 0)
        mask = self._only(within, tile.shape[0])
        view, tile = ref.at[self.at], tile.astype(ref.dtype)
        if mask is None:
            view[...] = tile
        else:
            plgpu.store(view, tile, mask=mask)

    def _mask(self) -> Array | None:
        return self._only(self.there, self.at[1].size)

    def _only(self, rows: Array | None, size: int) -> Array | None:
        columns = None if self.wide == self.dim else jnp.arange(self.wide)[None, :] < self.dim
        if rows is None:
            return None if columns is None else jnp.broadcast_to(columns, (size, self.wide))
        rows = jnp.broadcast_to(rows[:, None], (size, self.wide))
        return rows if columns is None else rows & columns


def within(start: Any, size: int, length: int) -> Array | None:
    """Which of these rows an array of that length has; `None`: all of any tile."""
    return None if length % size == 0 else start + jnp.arange(size) < length


def there(mask_ref: Any | None, batch: Any, start: Any, inside: Array | None, size: int) -> Any:
    """Which of these rows are in the array and not masked; `None`: all."""
    if mask_ref is None:
        return inside
    view = mask_ref.at[batch, pl.ds(start, size)]
    return view[...] if inside is None else plgpu.load(view, mask=inside, other=False)


def rows(start: Any, size: int, head: Any, dim: int, batch: Any, there: Array | None) -> Rows:
    wide = power(dim)
    return Rows((batch, pl.ds(start, size), pl.ds(head * dim, wide)), wide, dim, there)


def tiles(mask_ref: Any | None, batch: Any, length: int, size: int) -> Any:
    """How many tiles of an array there are up to the last row that is there."""
    if mask_ref is None:
        return pl.cdiv(length, size)
    whole = jnp.arange(power(length))
    inside = None if power(length) == length else whole < length
    found = there(mask_ref, batch, 0, inside, power(length))
    last = jnp.max(jnp.where(found, whole + 1, 0))
    return jax.lax.div(last + (size - 1), size)


def dot(form: Form, a: Array, b: Array, dimensions: tuple[int, int]) -> Array:
    """Product over one axis of each, summed in float32. Float32 is not rounded to TF32: it is the
    sum of three products of it, as float32 has no tensor cores."""
    precision: Any = None
    if a.dtype == jnp.float32:
        exact = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
        precision = jax.lax.Precision.HIGHEST if form.interpret else exact
    return jax.lax.dot_general(
        a,
        b,
        (((dimensions[0],), (dimensions[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def read(ref: Any, head: Any, batch: Any, start: Any, size: int, inside: Array | None) -> Array:
    """A float32 number for each row, of an array `[b, h, t]`; zero for rows outside it."""
    view = ref.at[batch, head, pl.ds(start, size)]
    return view[...] if inside is None else plgpu.load(view, mask=inside, other=0.0)


def write(ref: Any, row: Array, head: Any, batch: Any, start: Any, inside: Array | None) -> None:
    """Writes a number for each row of an array `[b, h, t]`."""
    view = ref.at[batch, head, pl.ds(start, row.shape[0])]
    if inside is None:
        view[...] = row
    else:
        plgpu.store(view, row, mask=inside)


def power(size: int) -> int:
    """The next power of two; of 16 at least, which is what tensor cores multiply."""
    return max(16, pl.next_power_of_2(size))

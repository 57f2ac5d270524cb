"""Tiles of rows of one head, as Triton loads and stores them."""

import struct
from collections.abc import Callable
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


def over(
    mask_ref: Any | None,
    batch: Any,
    length: int,
    size: int,
    wanted: Array | None,
    visit: Callable[[Any, int, Array | None, Any], Any],
    carry: Any,
) -> Any:
    """`carry = visit(first row, rows, which are there, carry)` of tile after tile of an array.

    Without a mask the last tile is as small as what is left, and only that one knows of an end.
    With one, tiles beyond the last row that is there are left out. `wanted` is 0 where nothing is
    to be visited at all, else 1; `None`: 1.
    """
    times = 1 if wanted is None else wanted
    if mask_ref is not None:

        def one(number: Any, carry: Any) -> Any:
            first = number * size
            inside = within(first, size, length)
            return visit(first, size, there(mask_ref, batch, first, inside, size), carry)

        return jax.lax.fori_loop(0, _tiles(mask_ref, batch, length, size) * times, one, carry)
    whole, rest = divmod(length, size)
    if whole:
        carry = jax.lax.fori_loop(
            0, whole * times, lambda number, carry: visit(number * size, size, None, carry), carry
        )
    if not rest:
        return carry
    small = power(rest)
    inside = within(whole * size, small, length)
    # a loop of one, as rows beyond the end may only be named by what is not a constant
    return jax.lax.fori_loop(
        whole,
        whole + times,
        lambda number, carry: visit(number * size, small, inside, carry),
        carry,
    )


def _tiles(mask_ref: Any, batch: Any, length: int, size: int) -> Any:
    """How many tiles of an array there are up to the last row that is there."""
    whole = jnp.arange(power(length))
    inside = None if power(length) == length else whole < length
    found = there(mask_ref, batch, 0, inside, power(length))
    last = jnp.max(jnp.where(found, whole + 1, 0))
    return jax.lax.div(last + (size - 1), size)


def dot(form: Form, a: Array, b: Array, dimensions: tuple[int, int]) -> Array:
    """Product over one axis of each, summed in float32. Float32 is not rounded to TF32: it is the
    sum of three products of it, as float32 has no tensor cores."""
    precision: Any = None
    if form.interpret:  # a CPU cannot sum all products of bfloat16 in float32
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        precision = jax.lax.Precision.HIGHEST
    elif a.dtype == jnp.float32:
        precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return jax.lax.dot_general(
        a,
        b,
        (((dimensions[0],), (dimensions[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def exp2(fused: bool, a: Array, scale: float, b: Array) -> Array:
    """2 to the power of a · scale - b, in float32; subnormal results are 0 where `fused`.

    Fused, it is two instructions of the GPU: left to the compiler, product and difference stay
    apart and the power is scaled to and fro for the sake of subnormal numbers.
    """
    if not fused:
        return jnp.exp2(a * scale - b)
    factor = struct.pack(">f", scale).hex().upper()
    (found,) = plgpu.elementwise_inline_asm(
        f"{{ .reg .f32 t; fma.rn.f32 t, $1, 0f{factor}, $2; ex2.approx.ftz.f32 $0, t; }}",
        args=[a, jnp.broadcast_to(-b, a.shape)],
        constraints="=f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(a.shape, jnp.float32)],
    )
    return found


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

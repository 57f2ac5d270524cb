"""Which tiles of rows meet which groups: what a grouped product goes through, one by one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fusekit.scope import work_scope

MOST = 512
"""Rows of a tile; fewer, but eight, where a tile a group would be over a quarter of the rows."""


UNKNOWN = 64
"""Rows of a tile in programs that are exported for any number of rows."""


def tile_of(count: Any, groups: int) -> int:
    """Rows of a tile: a power of two."""
    if not isinstance(count, int):
        return UNKNOWN
    share = max(8, count // (4 * groups))
    return min(MOST, 1 << (share.bit_length() - 1))


class Meeting(NamedTuple):
    """A tile that has rows of a group. Tiles meet groups at most `tiles + groups - 1` times.

    Args:
      group: the group.
      start: the first row of the tile.
      first: the group's first row.
      end: the row behind its last; `first` or less of a meeting that there is not.
    """

    group: Int[Array, "*m"]
    start: Int[Array, "*m"]
    first: Int[Array, "*m"]
    end: Int[Array, "*m"]

    @staticmethod
    def at(number: Int[Array, "*m"], sizes: Int[Array, "e"], count: Any, tile: int) -> "Meeting":
        """Those of these numbers, from 0 on, in the order of rows; beyond the last are none."""
        ends = jnp.cumsum(sizes)
        firsts = ends - sizes
        tiles = jnp.where(sizes > 0, (ends - 1) // tile - firsts // tile + 1, 0)
        behind = jnp.cumsum(tiles)
        group = jnp.sum(number[..., None] >= behind, axis=-1, dtype=jnp.int32)
        there, group = group < len(sizes), jnp.minimum(group, len(sizes) - 1)
        start = firsts[group] // tile + number - (behind - tiles)[group]
        start = tile * jnp.minimum(start, count // tile - 1)
        return Meeting(group, start, firsts[group], jnp.where(there, ends[group], 0))

    def of(self, rows: Float[Array, "n d"], tile: int) -> Float[Array, "t d"]:
        """The tile's rows, zeros in place of other groups'."""
        part = jax.lax.dynamic_slice_in_dim(rows, self.start, tile)
        return jnp.where(self._mine(tile), part, jnp.zeros((), rows.dtype))

    def put(self, rows: Float[Array, "n d"], part: Float[Array, "t d"]) -> Float[Array, "n d"]:
        """`rows` with the group's of this tile replaced."""
        before = jax.lax.dynamic_slice_in_dim(rows, self.start, len(part))
        part = jnp.where(self._mine(len(part)), part, before)
        return jax.lax.dynamic_update_slice_in_dim(rows, part, self.start, 0)

    def _mine(self, tile: int) -> Bool[Array, "t 1"]:
        row = self.start + jnp.arange(tile)[:, None]
        return (row >= self.first) & (row < self.end)


def through(
    one: Callable[[Any, Meeting], Any],
    first: Any,
    sizes: Int[Array, "e"],
    count: Any,
    tile: int,
    *,
    flops: Any,
) -> Any:
    """What `one` makes of `first` and each meeting in turn; `flops` are those of use."""
    turns = count // tile + len(sizes) - 1
    if isinstance(turns, int):
        meetings = Meeting.at(jnp.arange(turns), sizes, count, tile)
        with work_scope(flops):
            return jax.lax.scan(lambda so_far, at: (one(so_far, at), None), first, meetings)[0]

    def turn(number: Array, so_far: Any) -> Any:
        return one(so_far, Meeting.at(number, sizes, count, tile))

    return jax.lax.fori_loop(0, jnp.asarray(turns), turn, first)

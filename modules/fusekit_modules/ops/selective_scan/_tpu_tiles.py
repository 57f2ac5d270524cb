"""What the TPU kernels share: how arrays of tokens become registers of 8 sublanes and 128 lanes."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from fusekit_modules.ops.selective_scan.form import CHUNK, RESET

SUBLANES, LANES = 8, 128
FORGET = 1e30
"""Of a decay's exponent, which it multiplies: makes it zero."""
LOG2 = 0.6931471805599453


def columns(wide: int) -> list[slice]:
    """The groups of 128 lanes."""
    return [slice(at, at + LANES) for at in range(0, wide, LANES)]


def groups(size: int) -> list[slice]:
    """The groups of 8 sublanes."""
    return [slice(at, at + SUBLANES) for at in range(0, size, SUBLANES)]


def tokens(marks: Any, x: Any, delta: Any, inputs: Any, exponents: Any) -> Array:
    """Writes delta · x and what decays are exponents of, of each token there is, by column of
    lanes and then token, so that a token's row is read onto all sublanes. Returns the marks, a
    token a row, the same on all lanes."""
    rows = jnp.broadcast_to(marks[0], (LANES, CHUNK)).T
    for at, own in enumerate(columns(x.shape[-1])):
        place = slice(at * CHUNK, (at + 1) * CHUNK)
        d = there(rows, delta[0, :, own])
        inputs[place] = d * there(rows, x[0, :, own])
        exponents[place] = jnp.where(rows == RESET, FORGET, d)
    return rows


def there(rows: Array, tile: Array) -> Array:
    """The tile in float32, with zeros for tokens that are not there."""
    return jnp.where(rows > 0, tile.astype(jnp.float32), 0.0)


def row(ref: Any, column: int, token: Any) -> Array:
    """A token's row on all sublanes."""
    return jnp.broadcast_to(ref[pl.ds(column * CHUNK + token, 1)], (SUBLANES, LANES))


def spread(ref: Any, place: Any, size: int) -> list[list[Array]]:
    """Of a row of B or C, `LANES / size` tokens side by side, each number on all lanes: by token
    and group. The unit that turns tiles is faster at this than the one that copies lanes."""
    tile = jnp.broadcast_to(ref[pl.ds(place, 1)], (LANES, LANES)).T
    return [
        [tile[at : at + SUBLANES] for at in range(first, first + size, SUBLANES)]
        for first in range(0, LANES, size)
    ]


def gather(tiles: list[list[Array]]) -> Array:
    """Sums over lanes, by token and group, as such a row."""
    whole = jnp.concatenate([tile for token in tiles for tile in token], axis=0)
    return jnp.sum(whole.T, axis=0, keepdims=True)


class Sums:
    """Sums over sublanes of 8 tiles, one for each sublane of the result.

    Tiles are merged in pairs as they come: of two, each row takes one's own row and another that
    is as many rows away as there are tiles in each, so that seven merges do what eight reductions
    would do at twice the cost.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Array, int]] = []

    def add(self, tile: Array, *, later: bool) -> None:
        """`later`: tiles come in the order of rows, else from the last row to the first."""
        size = 1
        while self.waiting and self.waiting[-1][1] == size:
            other, _ = self.waiting.pop()
            first, second = (other, tile) if later else (tile, other)
            mine = (lax.broadcasted_iota(jnp.int32, tile.shape, 0) & size) == 0
            kept, moved = jnp.where(mine, first, second), jnp.where(mine, second, first)
            tile, size = kept + pltpu.roll(moved, size, 0), 2 * size
        self.waiting.append((tile, size))

    def take(self) -> Array:
        """The result of 8 tiles."""
        ((tile, _),) = self.waiting
        self.waiting = []
        return tile


def plus(total: Array | None, more: Array) -> Array:
    return more if total is None else total + more

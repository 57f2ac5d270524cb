"""The ring: what each device does with its own queries and the keys that come by.

Liu et al. 2023 (arXiv 2310.01889, section 3): each device keeps its queries, and blocks of keys
and values pass from device to device. Here also the way back, in which a block takes the sum of its
gradients along until it is home again. To be called within `jax.shard_map`.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.layers.online_softmax import (
    Allowed,
    Pull,
    Result,
    absorb,
    finish,
    in_chunks,
    start,
    united,
)
from fusekit_modules.layers.sight import Sight, beside


class Block(NamedTuple):
    """Keys and values `[b, n, h, k]`, or their gradients, or where they lie."""

    key: Any
    value: Any


class Section(NamedTuple):
    """One source among the keys: where it begins, how many keys a device has of it, and whether
    these are a part, which goes round, or all of it."""

    begin: int
    size: int
    moves: bool


class Seen:
    """Masks of one device's queries, by pieces of the keys.

    Args:
      sights: of the device's own queries and all keys.
      dense: masks `[*b, q, k]` of them.
    """

    def __init__(self, sights: Sequence[Sight], dense: Sequence[Array]):
        self.sights = [(sight.rule, sight.prepared(), sight.keys) for sight in sights]
        self.dense = dense
        self.here: Array | None = None

    def where(self, here: Array) -> "Seen":
        """Nothing where `here` is false."""
        found = copy(self)
        found.here = here
        return found

    def __call__(self, at: Any, count: int) -> Allowed:
        """Of the keys from `at` on."""

        def piece(column: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(column, at, count, axis=-1)

        masks = [piece(mask) for mask in self.dense]
        for rule, queries, keys in self.sights:
            near = jax.tree.map(lambda column: beside(piece(column), -2), keys)
            masks.append(jnp.asarray(rule(queries, near)))
        if self.here is not None:
            masks.append(jnp.broadcast_to(self.here, (1, 1, count)))
        if not masks:
            return None
        masks = [mask if mask.ndim == 3 else mask[None] for mask in masks]
        return jnp.expand_dims(reduce(jnp.logical_and, masks), 1)


Visit = Callable[[Any, Block, Any, Seen, int, Any], tuple[Any, Any]]
"""(carry, block, its luggage, masks, its size, where it begins) -> carry and luggage after it."""


class Ring(NamedTuple):
    """Devices along the mesh axes `axis`, what the keys consist of, and whether blocks go round.

    If not, each device has all queries, and reads the blocks that it has: its parts of sources, and
    the first device the sources that are whole.
    """

    axis: Any
    devices: int
    sections: tuple[Section, ...]
    turns: bool = True

    def forward(self, query: Float[Array, "b q h k"], blocks: list[Block], seen: Seen) -> Result:
        """What the device's queries read of all keys."""

        def visit(
            running: Any, block: Block, _: Any, seen: Seen, size: int, begin: Any
        ) -> tuple[Any, None]:
            def chunk(running: Any, at: Any, count: int) -> Any:
                key, value = (_piece(x, at, count) for x in block)
                return absorb(running, query, key, value, seen(begin + at, count))

            return in_chunks(chunk, running, size), None

        running, _ = self._round(visit, start(query), blocks, [None] * len(blocks), seen)
        return finish(running if self.turns else united(running, self.axis), query)

    def backward(
        self,
        query: Float[Array, "b q h k"],
        blocks: list[Block],
        seen: Seen,
        result: Result,
        grad: Float[Array, "b q h k"],
    ) -> tuple[Float[Array, "b q h k"], list[Block]]:
        """Gradients of the device's queries and of its blocks; of blocks that do not move, summed
        over the ring."""
        pull, high = Pull.of(query, result, grad), result.log_total.dtype

        def visit(
            total: Array, block: Block, sums: Block, seen: Seen, size: int, begin: Any
        ) -> tuple[Array, Block]:
            def chunk(carry: tuple[Array, Block], at: Any, count: int) -> tuple[Array, Block]:
                total, sums = carry
                key, value = (_piece(x, at, count) for x in block)
                of_query, *of_block = pull.of_block(key, value, seen(begin + at, count))
                added = [_add(x, new, at) for x, new in zip(sums, of_block, strict=True)]
                return total + of_query, Block(*added)

            return in_chunks(chunk, (total, sums), size)

        zeros = [Block(*(jnp.zeros(x.shape, high) for x in block)) for block in blocks]
        total, sums = self._round(visit, jnp.zeros(query.shape, high), blocks, zeros, seen)
        total = total if self.turns else jax.lax.psum(total, self.axis)
        for n, section in enumerate(self.sections):
            if not section.moves:
                sums[n] = jax.lax.psum(sums[n], self.axis)
        cast = jax.tree.map(lambda own, like: own.astype(like.dtype), sums, blocks)
        return total.astype(query.dtype), cast

    def _round(
        self, visit: Visit, carry: Any, blocks: list[Block], luggage: list[Any], seen: Seen
    ) -> tuple[Any, list[Any]]:
        """Has the device meet every block once, or its own. Luggage is filled on the way, and comes
        home."""
        own, luggage, moving = jax.lax.axis_index(self.axis), list(luggage), []
        still = seen if self.turns else seen.where(own == 0)
        for n, section in enumerate(self.sections):
            if section.moves:
                moving.append(n)
                continue
            size, begin = section.size, section.begin
            carry, luggage[n] = visit(carry, blocks[n], luggage[n], still, size, begin)

        def meet(carry: Any, held: list[Block], kept: list[Any], turn: Any) -> tuple[Any, list]:
            home, after = (own - turn) % self.devices, []
            for n, block, sums in zip(moving, held, kept, strict=True):
                section = self.sections[n]
                begin = section.begin + home * section.size
                carry, sums = visit(carry, block, sums, seen, section.size, begin)
                after.append(sums)
            return carry, after

        def step(state: Any, turn: Array) -> tuple[Any, None]:
            carry, held, kept = state
            coming = self._passed(held)
            carry, kept = meet(carry, held, kept, turn)
            return (carry, coming, self._passed(kept)), None

        held, kept = [blocks[n] for n in moving], [luggage[n] for n in moving]
        if self.turns:
            turns = jnp.arange(self.devices - 1)
            (carry, held, kept), _ = jax.lax.scan(step, (carry, held, kept), turns)
            carry, kept = meet(carry, held, kept, self.devices - 1)
            kept = self._passed(kept)
        else:
            carry, kept = meet(carry, held, kept, 0)
        for n, sums in zip(moving, kept, strict=True):
            luggage[n] = sums
        return carry, luggage

    def _passed(self, tree: Any) -> Any:
        """What the neighbour before sends."""
        along = [(n, (n + 1) % self.devices) for n in range(self.devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axis, along), tree)


def _piece(x: Array, at: Any, count: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, at, count, axis=1)


def _add(x: Array, new: Array, at: Any) -> Array:
    """With `new` added to its rows from `at` on."""
    before = _piece(x, at, new.shape[1])
    return jax.lax.dynamic_update_slice_in_dim(x, before + new, at, axis=1)

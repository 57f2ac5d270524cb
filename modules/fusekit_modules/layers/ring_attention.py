"""Attention of streams whose tokens lie on several devices.

No device ever holds all keys, or more scores than of a chunk of them; masks are made piece by
piece of what describes the tokens (`fusekit_modules.layers.sight`): a few integers each, which
every device has of all tokens.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from fusekit_modules.layers.online_softmax import Result
from fusekit_modules.layers.place import Place
from fusekit_modules.layers.ring import Block, Ring, Section, Seen
from fusekit_modules.layers.sight import Mask, Sight


class Masks(NamedTuple):
    """Who may read whom, keys filled up as their sources are.

    Args:
      sights: masks that are functions of columns `[*b, q]` and `[*b, k]`.
      dense: others, `[*b, q, k]`.
    """

    sights: list[Sight]
    dense: list[Array]

    def columns(self) -> Any:
        """The arrays."""
        return [(sight.queries, sight.keys) for sight in self.sights], self.dense

    def spec(self, place: Place) -> Any:
        """Where these lie: what is of queries as they do, what is of keys on every device."""

        def queries(x: Array) -> P:
            return place.of_columns(x.shape, place.queries)

        def keys(x: Array) -> P:
            return place.of_columns(x.shape, None)

        pairs = [
            (jax.tree.map(queries, sight.queries), jax.tree.map(keys, sight.keys))
            for sight in self.sights
        ]
        return pairs, [place.of_columns(x.shape, place.queries, None) for x in self.dense]

    def seen(self, columns: Any) -> Seen:
        """The masks of one device, from its part of the columns."""
        pairs, dense = columns
        local = [
            sight._replace(queries=queries, keys=keys)
            for sight, (queries, keys) in zip(self.sights, pairs, strict=True)
        ]
        return Seen(local, dense)


def ring_attention(
    query: Float[Array, "b q h k"],
    sources: Sequence[tuple[Float[Array, "b n h k"], Float[Array, "b n h k"]]],
    masks: Sequence[Mask | Sight],
    place: Place,
) -> tuple[Float[Array, "b q h k"], Bool[Array, "b q"]]:
    """softmax(query key / sqrt(head_dim)) value over the keys of all sources, by head, as
    `dot_product` has it; and which queries read anything. Those that do not get zeros.

    Args:
      sources: keys and values. Those that `place` splits go round the ring, or are read where
        they are by all queries; the others are whole on every device.
      masks: of the keys of all sources side by side; they intersect.
    """
    length, missing = query.shape[1], place.unfilled(query.shape[1])
    counts = [key.shape[1] for key, _ in sources]
    fill = [place.missing(count) for count in counts]
    sections, begin = [], 0
    for count, more in zip(counts, fill, strict=True):
        moves = place.splits(count)
        sections.append(Section(begin, (count + more) // place.devices if moves else count, moves))
        begin += count + more
    blocks = [
        Block(_filled(key, more, 1), _filled(value, more, 1))
        for (key, value), more in zip(sources, fill, strict=True)
    ]
    ring = Ring(place.ring, place.devices, tuple(sections), place.turns)
    found = _prepared(masks, counts, fill, missing)
    mixed, some = _attend(ring, place, found)(_filled(query, missing, 1), blocks, found.columns())
    return mixed[:, :length], some[:, :length]


def _attend(ring: Ring, place: Place, masks: Masks) -> Any:
    """The function of queries, blocks and columns, with its gradient."""
    query = place.spec(place.queries)
    blocks = [Block(*[place.spec(place.ring if s.moves else None)] * 2) for s in ring.sections]
    heads_first = P(place.rows, place.heads, place.queries)
    places: list[Any] = [query, heads_first, heads_first]
    result = Result(*places)
    columns = masks.spec(place)
    shard = partial(jax.shard_map, mesh=place.mesh, check_vma=False)

    @partial(shard, in_specs=(query, blocks, columns), out_specs=result)
    def forward(q: Array, blocks: list[Block], columns: Any) -> Result:
        return ring.forward(q, blocks, masks.seen(columns))

    @partial(shard, in_specs=(query, blocks, columns, result, query), out_specs=(query, blocks))
    def backward(
        q: Array, blocks: list[Block], columns: Any, result: Result, grad: Array
    ) -> tuple[Array, list[Block]]:
        return ring.backward(q, blocks, masks.seen(columns), result, grad)

    @jax.custom_vjp
    def attend(q: Array, blocks: list[Block], columns: Any) -> tuple[Array, Array]:
        result = forward(q, blocks, columns)
        return result.mixed, result.some[:, 0]

    def ahead(q: Array, blocks: list[Block], columns: Any) -> tuple[Any, Any]:
        result = forward(q, blocks, columns)
        return (result.mixed, result.some[:, 0]), (q, blocks, columns, result)

    def back(kept: Any, grads: tuple[Array, Any]) -> tuple[Array, list[Block], None]:
        q, blocks, columns, result = kept
        return (*backward(q, blocks, columns, result, grads[0]), None)

    attend.defvjp(ahead, back)
    return attend


def _prepared(
    masks: Sequence[Mask | Sight], counts: Sequence[int], fill: Sequence[int], missing: int
) -> Masks:
    """The masks over sources of `counts` keys that are filled up by `fill`, and over queries that
    `missing` fills up."""
    sights, dense = [], []
    for mask in masks:
        if isinstance(mask, Sight):
            sights.append(mask)
        elif mask.shape[-2] == 1:
            sights.append(Sight(_of_keys, (), mask[..., 0, :]))
        else:
            dense.append(mask)
    if any(fill):
        real = np.ones((sum(counts),), bool)
        sights.append(Sight(_of_keys, (), real))
    keys = partial(_laid, counts=counts, fill=fill)
    return Masks(
        [
            sight._replace(
                queries=jax.tree.map(lambda x: _filled(jnp.asarray(x), missing, -1), sight.queries),
                keys=jax.tree.map(keys, sight.keys),
            )
            for sight in sights
        ],
        [keys(_filled(mask, missing, -2)) for mask in dense],
    )


def _of_keys(_: Any, keys: Any) -> Any:
    """The rule of masks that are the same for every query."""
    return keys


def _laid(column: Any, counts: Sequence[int], fill: Sequence[int]) -> Array:
    """A column `[*b, k]` over keys whose sources are filled up, with zeros there."""
    column, at, parts = jnp.asarray(column), 0, []
    if not any(fill):
        return column
    for count, more in zip(counts, fill, strict=True):
        part = jax.lax.slice_in_dim(column, at, at + count, axis=-1)
        parts.append(_filled(part, more, -1))
        at += count
    return jnp.concatenate(parts, axis=-1)


def _filled(x: Array, more: int, axis: int) -> Array:
    """With zeros after what there is along an axis."""
    if not more:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, more)
    return jnp.pad(x, widths)

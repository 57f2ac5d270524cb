"""Where the queries of an attention lie on a mesh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from fusekit.layout import Layout

LEAST = 128
"""Tokens that do not divide over the ring are cut all the same, the last part filled up, if each
device gets so many."""


@dataclass(frozen=True)
class Place:
    """Mesh axes of rows, of tokens (the ring) and of heads.

    Args:
      turns: whether queries are split and keys go round; else queries are whole on every device,
        and each reads the keys that it has.
    """

    mesh: Mesh
    rows: Any
    ring: Any
    heads: Any
    turns: bool = True

    @staticmethod
    def of(layout: Layout | None, query: Array, counts: Sequence[int]) -> "Place | None":
        """That of queries `[b, q, h, k]` that read sources of so many keys. Queries that are no
        more than the keys that a device has of the longest source stay whole. `None` where there
        is nothing to split, or queries are too many to be whole and too few to be split."""
        if layout is None or layout.size == 1:
            return None
        b, q, h, _ = query.shape
        # any number of tokens that divides over all devices tells how tokens are split
        rows, ring = layout.of_stream((b, layout.size), ("batch", "time")).spec
        (heads,) = layout.of_param((h,), ("heads",)).spec
        if ring is None:
            return None
        if set(_names(heads)) & {*_names(rows), *_names(ring)}:
            heads = None
        place = Place(layout.mesh, rows, ring, heads)
        longest = max([count for count in counts if place.splits(count)], default=0)
        if q * place.devices <= longest:
            return replace(place, turns=False)
        return place if longest and place.splits(q) else None

    @property
    def devices(self) -> int:
        """In the ring."""
        return math.prod(self.mesh.shape[axis] for axis in _names(self.ring))

    def splits(self, length: int) -> bool:
        """Whether so many tokens are cut over the ring; else each device has them all."""
        return length % self.devices == 0 or length >= LEAST * self.devices

    def missing(self, length: int) -> int:
        """How many tokens fill the last part up."""
        return -length % self.devices if self.splits(length) else 0

    @property
    def queries(self) -> Any:
        """The axes over which queries are split."""
        return self.ring if self.turns else None

    def unfilled(self, queries: int) -> int:
        """How many queries fill the last part up."""
        return self.missing(queries) if self.turns else 0

    def spec(self, tokens: Any) -> P:
        """Of queries, keys or values `[b, n, h, k]` whose tokens lie on these axes."""
        return P(self.rows, tokens, self.heads, None)

    def of_columns(self, shape: tuple[int, ...], *axes: Any) -> P:
        """Of arrays whose last axes lie on these mesh axes; an axis before them is that of rows,
        if there is more than one."""
        lead = len(shape) - len(axes)
        return P(*[self.rows if shape[0] > 1 else None] * lead, *axes)


def _names(axes: Any) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)

"""Where the queries of an attention lie on a mesh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from fusekit.layered import KeyValue
from fusekit.layout import Layout

LEAST = 128
"""Tokens that do not divide over the ring are cut all the same, the last part filled up, if each
device gets so many."""


@dataclass(frozen=True)
class Place:
    """Mesh axes of rows, of tokens (the ring) and of heads."""

    mesh: Mesh
    rows: Any
    ring: Any
    heads: Any

    @staticmethod
    def of(layout: Layout | None, query: Array) -> "Place | None":
        """That of queries `[b, q, h, k]`; `None` where their tokens are not split."""
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
        return place if place.splits(q) else None

    @property
    def devices(self) -> int:
        """In the ring."""
        return math.prod(self.mesh.shape[axis] for axis in _names(self.ring))

    def splits(self, length: int) -> bool:
        """Whether so many tokens are cut over the ring; else each device has them all."""
        return length % self.devices == 0 or length >= LEAST * self.devices

    def rings(self, sources: Sequence[KeyValue]) -> bool:
        """Whether any of the sources is cut; else the partitioner has nothing to gather."""
        return any(self.splits(source.key.shape[1]) for source in sources)

    def missing(self, length: int) -> int:
        """How many tokens fill the last part up."""
        return -length % self.devices if self.splits(length) else 0

    def spec(self, *, split: bool) -> P:
        """Of queries, keys or values `[b, n, h, k]`."""
        return P(self.rows, self.ring if split else None, self.heads, None)

    def of_columns(self, shape: tuple[int, ...], *axes: Any) -> P:
        """Of arrays whose last axes lie on these mesh axes; an axis before them is that of rows,
        if there is more than one."""
        lead = len(shape) - len(axes)
        return P(*[self.rows if shape[0] > 1 else None] * lead, *axes)


def _names(axes: Any) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)

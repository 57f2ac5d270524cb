"""Masks as kernels of attention take them: which keys may be read, and segments of tokens."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from fusekit_modules.layers.sight import Mask, Sight, alike

BY_QUERY = "what may be read differs from query to query"


class Allowed(NamedTuple):
    """What may be read.

    Args:
      keys: which keys, whoever reads; `None`: all.
      segments: of queries and of keys; a query reads keys of its own. `None`: all are of one.
    """

    keys: Bool[Array, "b k"] | None = None
    segments: tuple[Int[Array, "b q"], Int[Array, "b k"]] | None = None

    @staticmethod
    def of(masks: Sequence[Mask | Sight], batch: int) -> "Allowed | str":
        """That of masks, which intersect; or why it cannot be said so."""
        given = [mask for mask in masks if not _forbids_nothing(mask)]
        sights = [mask for mask in given if isinstance(mask, Sight)]
        dense = [mask for mask in given if not isinstance(mask, Sight)]
        if len(sights) > 1 or any(sight.rule is not alike for sight in sights):
            return BY_QUERY
        if any(mask.shape[-2] != 1 for mask in dense):
            return BY_QUERY
        keys, segments = None, None
        if dense:
            keys = _rows(reduce(jnp.logical_and, [mask[..., 0, :] for mask in dense]), batch)
        for sight in sights:
            own, theirs = (jnp.asarray(one, jnp.int32) for one in (sight.queries, sight.keys))
            segments = _rows(own, batch), _rows(theirs, batch)
        return Allowed(keys, segments)

    def seen(self, queries: int) -> Bool[Array, "b q"] | None:
        """Which queries read anything. `None`: all."""
        if self.segments is not None:
            own, theirs = self.segments
            same = own[:, :, None] == theirs[:, None]
            return jnp.any(same if self.keys is None else same & self.keys[:, None], axis=2)
        if self.keys is None:
            return None
        return jnp.broadcast_to(jnp.any(self.keys, 1)[:, None], (self.keys.shape[0], queries))

    def cut(self, start: int, stop: int) -> tuple[Array | None, Array | None]:
        """Masks and segments of some of the keys."""
        keys = None if self.keys is None else self.keys[:, start:stop]
        return keys, None if self.segments is None else self.segments[1][:, start:stop]


def _rows(column: Any, batch: int) -> Any:
    return jnp.broadcast_to(column, (batch, column.shape[-1]))


def _forbids_nothing(mask: Mask | Sight) -> bool:
    """Whether it is known that all tokens are of one segment."""
    if not isinstance(mask, Sight) or mask.rule is not alike:
        return False
    both = mask.queries, mask.keys
    if not all(isinstance(column, np.ndarray) for column in both):
        return False
    return len(np.unique(np.concatenate([column.ravel() for column in both]))) == 1

"""Where what is carried along a sequence begins anew: at segments, labels, items."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from fusekit.stream import Stream

Resets = Literal["segment", "label", "item"]
"""`segment`: where another packed segment begins, `label`: also where another label does, `item`:
also where another item of the same label does."""


class Marks(NamedTuple):
    """What tells tokens apart that nothing is to be carried between.

    Args:
      columns: descriptions `[*b, t]`, of which none may differ.
      counted: data tokens that are there, `[*b, t]`. Others (readout tokens, tokens of operators,
        padding) neither begin nor end anything.
    """

    columns: tuple[Any, ...]
    counted: Any

    @staticmethod
    def of(stream: Stream, resets: Resets) -> "Marks | None":
        """Those of a stream; `None`: nothing can begin in it but the stream itself."""
        data = [span for span in stream.spans if not span.readout]
        columns: list[Any] = []
        if stream.segment is not None:
            columns.append(stream.segment)
        several = len({span.label for span in data}) > 1
        if resets != "segment" and (stream.label is not None or several):
            columns.append(stream.labels())
        if resets == "item" and (stream.item is not None or any(s.items > 1 for s in data)):
            columns.append(stream.items())
        if not columns:
            return None
        counted = np.repeat([not s.readout for s in stream.spans], [s.size for s in stream.spans])
        valid = stream.valid()
        return Marks(tuple(columns), counted if valid is None else valid & counted)

    def reversed(self) -> "Marks":
        """Those of the same tokens from the last to the first."""
        return Marks(*jax.tree.map(lambda column: jnp.flip(column, -1), tuple(self)))

    def begins(self, batch: int) -> Bool[Array, "b t"]:
        """Counted tokens that differ from the counted token before them."""
        time = self.counted.shape[-1]
        shape = (batch, time)
        counted = jnp.broadcast_to(self.counted, shape)
        last = jax.lax.cummax(jnp.where(counted, jnp.arange(time), -1), axis=1)
        before = jnp.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        differ = jnp.zeros(shape, bool)
        for column in self.columns:
            column = jnp.broadcast_to(column, shape)
            past = jnp.take_along_axis(column, jnp.maximum(before, 0), axis=1)
            differ = differ | (column != past)
        return counted & (before >= 0) & differ

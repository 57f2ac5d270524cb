"""A loss with a queue of what it has seen, as a plug-in component: for tests of variables."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fusekit.component import LossSpec, LossValue, register
from fusekit.config.reference import Ref
from fusekit.parameter import statistic


@register
class QueueSpec(LossSpec):
    """Each row is pushed away from the mean of the queue; then the rows that count join it."""

    type: Literal["test_queue"] = "test_queue"
    input: Ref
    size: int = 6

    def build(self, inputs, *, rngs):
        return Queue(self.size, inputs["input"].width)


class Queue(nnx.Module):
    """`rows [size, d]`, oldest overwritten first, and how many have ever been written."""

    def __init__(self, size: int, width: int):
        self.rows = statistic(jnp.zeros((size, width)), (None, "embed"))
        self.written = statistic(jnp.zeros((), jnp.int32), ())

    def __call__(self, streams, *, rows, context):
        values, size = streams["input"].values, self.rows.shape[0]
        count = jnp.minimum(self.written[...], size)
        mean = jnp.sum(self.rows[...], 0) / jnp.maximum(count, 1)
        total = jnp.where(rows, values @ mean, 0.0)
        if context.training:
            kept = jax.lax.stop_gradient(values)
            order = self.written[...] + jnp.cumsum(rows) - 1
            late = order >= self.written[...] + jnp.sum(rows) - size
            where = jnp.where(rows & late, order % size, size)
            self.rows[...] = self.rows[...].at[where].set(kept, mode="drop")
            self.written[...] = self.written[...] + jnp.sum(rows, dtype=jnp.int32)
        return LossValue(total, rows.astype(values.dtype))

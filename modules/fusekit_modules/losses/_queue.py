"""Keys of rows that were seen before: further negatives (He et al. 2020, section 3.2)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fusekit.parameter import statistic

Labels = Float[Array, "b"] | Int[Array, "b"]


class Queue(nnx.Module):
    """The last `size` rows that counted, in order of the batch; the oldest are overwritten first.

    It holds `keys [m, q, d]`, those of m inputs; `labels [q]`, by which rows are positives of each
    other, if there are such; `filled`, how many rows there are; and `next`, where the next one
    goes. All of it is whole on every device.

    Args:
      inputs, size, width: m, q and d.
      labels: the dtype of the labels, if there are any.
    """

    def __init__(self, inputs: int, size: int, width: int, *, labels: Any = None):
        self.size = size
        self.keys = statistic(jnp.zeros((inputs, size, width)), (None, None, None))
        zeros = None if labels is None else jnp.zeros((size,), labels)
        self.labels = None if zeros is None else statistic(zeros, (None,))
        self.filled = statistic(jnp.zeros((), jnp.int32), ())
        self.next = statistic(jnp.zeros((), jnp.int32), ())

    def held(self, index: int) -> tuple[Float[Array, "q d"], Bool[Array, "q"], Labels | None]:
        """The keys of one input, which places are filled (from the first on), and labels."""
        filled = jnp.arange(self.size) < self.filled[...]
        return self.keys[...][index], filled, None if self.labels is None else self.labels[...]

    def push(
        self,
        keys: list[Float[Array, "b d"]],
        labels: Labels | None,
        valid: Bool[Array, "b"],
    ) -> None:
        """Takes in the rows that count; of more than `size` the last."""
        order = jnp.cumsum(valid, dtype=jnp.int32) - 1
        count = jnp.sum(valid, dtype=jnp.int32)
        kept = valid & (order >= count - self.size)
        place = jnp.where(kept, (self.next[...] + order) % self.size, self.size)
        new = jax.lax.stop_gradient(jnp.stack(keys)).astype(self.keys[...].dtype)
        self.keys[...] = self.keys[...].at[:, place].set(new, mode="drop")
        if self.labels is not None and labels is not None:
            own = labels.astype(self.labels[...].dtype)
            self.labels[...] = self.labels[...].at[place].set(own, mode="drop")
        self.filled[...] = jnp.minimum(self.filled[...] + count, self.size)
        self.next[...] = (self.next[...] + count) % self.size

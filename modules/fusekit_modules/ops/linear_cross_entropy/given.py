"""What the backends are given."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Linear(NamedTuple):
    """A linear map and what it is applied to; gradients have the same form.

    Args:
      features: `[n, d]`, zero in rows that do not count.
      kernel: `[d, v]`, multiplied in the dtype of the features.
      bias: `[v]`, or `None`.
    """

    features: Any
    kernel: Any
    bias: Any = None

    @property
    def wide(self) -> Any:
        """The dtype of sums."""
        return jnp.promote_types(self.features.dtype, jnp.float32)

    def like(self, *grads: Any) -> "Linear":
        """Gradients in the dtypes of what they are of."""
        pairs = zip(self, grads, strict=True)
        return Linear(*(g if g is None else g.astype(leaf.dtype) for leaf, g in pairs))


Ends = tuple[Float[Array, "n"], Float[Array, "n"]]
"""By row, the log of the summed exponentials of the logits, and the target's logit: zero where the
target is none of this vocabulary. Also gradients by them."""

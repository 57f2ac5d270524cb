"""The short causal convolution before a scan over time."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fusekit.parameter import Axes, parameter
from fusekit_modules.layers.wide import wide


def runs_of(spans: Sequence[int], reset: Bool[Array, "b t"] | None) -> Int[Array, "*b t"] | None:
    """The runs that convolutions keep to, of spans of these sizes and of what begins anew within.

    They do not cross spans: how many tokens of a span are padding at its end must not matter to
    the next. `None`: all is one run.
    """
    if len(spans) < 2 and reset is None:
        return None
    span = np.repeat(np.arange(len(spans), dtype="int32"), spans)
    if reset is None:
        return jnp.asarray(span)[None]
    return jnp.cumsum(reset, axis=1, dtype=jnp.int32) * len(spans) + span


class ShortConv(nnx.Module):
    """silu of a causal convolution of each channel by itself (Gu and Dao 2024, section 3.4).

    Args:
      sizes: of the channels, such as (heads, head_dim).
      axes: their logical names.
      kernel: how many tokens it reads, the last of which is the token itself.
    """

    def __init__(self, sizes: tuple[int, ...], *, axes: Axes, kernel: int, rngs: nnx.Rngs):
        bound = 1 / math.sqrt(kernel)

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        self.kernel = parameter(rngs, init, (kernel, *sizes), (None, *axes))
        self.bias = parameter(rngs, nnx.initializers.zeros, sizes, axes)

    def __call__(
        self, x: Float[Array, "b t *c"], runs: Int[Array, "*b t"] | None = None
    ) -> Float[Array, "b t *c"]:
        """Tokens of another run are read as zeros, as are those before the first. Sums are taken
        in float32 at least."""
        kind, x = x.dtype, wide(x)
        kernel = self.kernel[...].astype(x.dtype)
        last, time = kernel.shape[0] - 1, x.shape[1]
        y = x * kernel[last]
        for lag in range(1, min(last + 1, time)):
            past = _later(x, lag)
            if runs is not None:
                same = runs == _later(runs, lag)
                past = jnp.where(same.reshape(*same.shape, *(1,) * (x.ndim - 2)), past, 0)
            y = y + past * kernel[last - lag]
        return jax.nn.silu(y + self.bias[...].astype(x.dtype)).astype(kind)


def _later(x: Array, lag: int) -> Array:
    """Moved to `lag` tokens later; zeros come in."""
    return jnp.pad(x[:, :-lag], ((0, 0), (lag, 0), *((0, 0),) * (x.ndim - 2)))

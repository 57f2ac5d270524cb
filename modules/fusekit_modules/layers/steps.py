"""How long the step of a token takes, in a scan over time: dt."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.layers.wide import wide

SLOWEST, FASTEST = 1e-3, 1e-1
"""Between these dt begins, evenly by its logarithm (Gu and Dao 2023, section 3.6)."""


def dt_bias(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """The inverse of softplus of what dt is to begin as."""
    draw = jax.random.uniform(key, shape, dtype, math.log(SLOWEST), math.log(FASTEST))
    dt = jnp.exp(draw)
    return dt + jnp.log(-jnp.expm1(-dt))


def step_of(dt: Float[Array, "b t c"], bias: Float[Array, "c"]) -> Float[Array, "b t c"]:
    """softplus(dt + bias), in float32 at least."""
    high = wide(dt)
    return jax.nn.softplus(high + bias.astype(high.dtype))

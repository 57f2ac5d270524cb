"""Dropout and stochastic depth, with keys from the call context."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.context import Context

Kept = Literal["rescaled", "plain"]


def dropout(
    x: Float[Array, "*n"], rate: float, *, context: Context, purpose: str = "dropout"
) -> Float[Array, "*n"]:
    """Zeroes each value with probability `rate` in training and divides the others by
    1 - rate (Srivastava et al. 2014, in the inverted form). Identity outside training."""
    if not context.training or rate == 0.0:
        return x
    if rate >= 1.0:
        return jnp.zeros_like(x)
    keep = jax.random.bernoulli(context.rng(purpose), 1.0 - rate, x.shape)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def drop_path_rate(last: float, depth: int, *, context: Context) -> float | Array:
    """The rate of layer `context.layer`: from 0 at the first linearly up to `last` at the last
    of `depth` layers (Huang et al. 2016, section 3). The layer may be traced."""
    return last * context.layer / max(depth - 1, 1)


def drop_path_factor(
    batch: int,
    last: float,
    depth: int,
    *,
    context: Context,
    kept: Kept = "rescaled",
    purpose: str = "drop_path",
) -> Float[Array, "b 1 1"] | None:
    """What each sample's residual branch is multiplied by; `None` where nothing is dropped.

    A dropped sample gets 0. A kept one gets 1 / (1 - rate) if `rescaled`, so that the mean stays
    the same, or 1 if `plain`, which is what the bottleneck transformer's own code does (Nagrani
    et al. 2021).
    """
    if not context.training or last == 0.0:
        return None
    share = 1.0 - jnp.asarray(drop_path_rate(last, depth, context=context), jnp.float32)
    keep = jax.random.bernoulli(context.rng(purpose), share, (batch, 1, 1))
    value = 1.0 / jnp.maximum(share, 1e-6) if kept == "rescaled" else jnp.ones((), jnp.float32)
    return jnp.where(keep, value, 0.0)

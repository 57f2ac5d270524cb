"""tokamax's grouped product, where the package is installed (`pip install 'fusekit[tokamax]'`).

It looks at JAX's default device: to compile ahead of time, lower under `jax.default_device`. Its
kernels cannot be interpreted, so that they are tried on a TPU or a GPU, or in the compiler, alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fusekit_modules.ops import optional
from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.reasons import other_dtype
from fusekit_modules.ops.target import Target

KERNELS = {"tpu": "mosaic_tpu", "gpu": "triton"}


def unsupported(target: Target, rows: Any, weights: Any) -> Reason:
    """Why it cannot."""
    if target.platform not in KERNELS:
        return f"the target is a {target}"
    return optional.lacks_tokamax() or other_dtype(rows, weights)


def forward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    *,
    platform: str,
) -> Float[Array, "n h"]:
    """As `reference.forward`."""
    call = optional.tokamax().ragged_dot
    found = call(rows, weights, sizes.astype(jnp.int32), implementation=KERNELS[platform])
    there = jnp.arange(len(rows)) < jnp.sum(sizes)
    return jnp.where(there[:, None], found, jnp.zeros((), found.dtype)).astype(rows.dtype)


def backward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    grad: Float[Array, "n h"],
    *,
    platform: str,
) -> tuple[Float[Array, "n d"], Float[Array, "e d h"]]:
    """As `reference.backward`."""

    def product(rows: Array, weights: Array) -> Array:
        return forward(rows, sizes, weights, platform=platform)

    return jax.vjp(product, rows, weights)[1](grad)

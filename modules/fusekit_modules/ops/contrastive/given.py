"""What the public functions are given, as the backends take it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.errors import FusekitError
from fusekit_modules.ops.target import Target

CPU = Target("cpu")


def multiplied(values: Float[Array, "*b d"], target: Target) -> Float[Array, "*b d"]:
    """Float32 rounded to what the target multiplies by default: bfloat16 on TPUs, the 10 bits of
    TF32 on GPUs. So that own scores, summed apart, are of the same vectors as all others: else a
    contrast that is nearly won would be of rounding errors. Not where
    `jax.default_matmul_precision` asks for more."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if values.dtype != jnp.float32 or asked not in (None, "default"):
        return values
    if target.platform == "tpu":
        return values.astype(jnp.bfloat16)
    return jax.lax.reduce_precision(values, 8, 10) if target.platform == "gpu" else values


def only(values: Array, counts: Array) -> Array:
    return jnp.where(counts[:, None], values, jnp.zeros((), values.dtype))


def scalar(value: Any, like: Array) -> Array:
    return jnp.asarray(value, jnp.promote_types(like.dtype, jnp.float32))


def layout_of(place: Any) -> Any:
    return place if hasattr(place, "activations") else None


def target_of(place: Any, target: Target | None) -> Target:
    if target is not None:
        return target
    try:
        return CPU if place is None else Target.of(place)
    except FusekitError:  # a device that no kernels are for
        return CPU

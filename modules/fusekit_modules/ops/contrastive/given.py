"""What the public functions are given, as the backends take it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit_modules.ops.rule import target_of
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


@dataclass(frozen=True)
class How:
    """Where a contrast runs, and what chooses its backends.

    Args:
      target: the kind of device.
      layout: over which rows and columns are cut, if over one.
      forward, backward: backends by name, or `auto`.
      context: of a component; chooses in place of these names.
    """

    target: Target
    layout: Any = None
    forward: str = "auto"
    backward: str = "auto"
    context: Context | None = None

    @staticmethod
    def of(
        place: Any = None,
        target: Target | None = None,
        forward: str = "auto",
        backward: str = "auto",
        context: Context | None = None,
    ) -> "How":
        """As the public functions are told."""
        if context is not None:
            return How(target or target_of(context), context.layout, context=context)
        layout = place if hasattr(place, "activations") else None
        return How(_target(place, target), layout, forward, backward)


def _target(place: Any, target: Target | None) -> Target:
    if target is not None:
        return target
    try:
        return CPU if place is None else Target.of(place)
    except FusekitError:  # a device that no kernels are for
        return CPU

"""A constant learning rate."""

from typing import Any, Literal

import jax.numpy as jnp

from fusekit.component import register
from fusekit_modules.schedules._warmup import Schedule, WarmupSpec


@register
class ConstantSpec(WarmupSpec):
    """Stays at the peak."""

    type: Literal["constant"] = "constant"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"warmup": 3}]

    def after(self, warmup: int, steps: int) -> Schedule:
        return jnp.ones_like

"""Exponential decay."""

from typing import Any, Literal

import jax.numpy as jnp
from pydantic import Field

from fusekit.component import Count, register
from fusekit_modules.schedules._warmup import Factor, Schedule, WarmupSpec


@register
class ExponentialSpec(WarmupSpec):
    """Multiplies the learning rate by `factor` in every `every` steps since the peak, evenly or in
    stairs, down to `final`."""

    type: Literal["exponential"] = "exponential"
    every: Count = Field(1000, description="steps in which the rate falls by the factor")
    factor: float = Field(0.9, gt=0, lt=1, description="what it is multiplied by")
    stairs: bool = Field(False, description="at once after so many steps, and not evenly")
    final: Factor = Field(0.0, description="factor below which it does not fall")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"every": 3, "factor": 0.5, "stairs": True, "warmup": 1, "final": 0.1}]

    def after(self, warmup: int, steps: int) -> Schedule:
        def factor(since: Any) -> Any:
            count = since / self.every
            power = self.factor ** (jnp.floor(count) if self.stairs else count)
            return jnp.maximum(power, self.final)

        return factor

"""Decay by the inverse square root."""

from typing import Any, Literal

import jax.numpy as jnp
from pydantic import Field

from fusekit.component import Count, register
from fusekit_modules.schedules._warmup import Schedule, WarmupSpec


@register
class InverseSqrtSpec(WarmupSpec):
    """sqrt(t / (t + steps since the peak)); with t the warm-up as in Vaswani et al. 2017."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: Count | None = Field(None, description="t; default the warm-up's steps, at least 1")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"warmup": 3}, {"timescale": 10}]

    def after(self, warmup: int, steps: int) -> Schedule:
        scale = self.timescale or max(warmup, 1)
        return lambda since: jnp.sqrt(scale / (scale + since))

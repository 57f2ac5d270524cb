"""One cycle."""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import ScheduleSpec, register
from fusekit_modules.schedules._warmup import Factor, Schedule, Span, count_steps, progress


@register
class OneCycleSpec(ScheduleSpec):
    """Half a cosine up from `start` to the peak, and half a cosine down to `final`, over a stage
    (Smith and Topin 2019)."""

    type: Literal["one_cycle"] = "one_cycle"
    warmup: Span = Field(0.3, description="steps to the peak, or the fraction of all steps")
    start: Factor = Field(0.04, description="factor at the first step")
    final: Factor = Field(0.0001, description="factor at the end")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"warmup": 3, "start": 0.1}]

    def build(self, steps: int) -> Schedule:
        """Step (from 0) -> factor. Raises `WiringError` if the warm-up exceeds the stage."""
        warmup = count_steps(self.warmup, steps, "warmup")

        def between(first: float, last: float, share: Float[Array, ""]) -> Float[Array, ""]:
            return last + (first - last) * (1 + jnp.cos(jnp.pi * share)) / 2

        def factor(step: Any) -> Float[Array, ""]:
            step = jnp.asarray(step, jnp.float32)
            rising = between(self.start, 1.0, jnp.clip(step / max(warmup, 1), 0.0, 1.0))
            falling = between(1.0, self.final, progress(step - warmup, warmup, steps))
            return jnp.where(step < warmup, rising, falling)

        return factor

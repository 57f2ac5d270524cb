"""What schedules share: a warm-up, and then a factor that depends on the step."""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import ScheduleSpec
from fusekit.errors import WiringError

Steps = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Span = Steps | Fraction
"""A number of steps, or a fraction of all of them."""

Factor = Annotated[float, Field(ge=0.0, le=1.0)]
Schedule = Callable[[Any], Float[Array, ""]]


def count_steps(span: int | float, steps: int, field: str) -> int:
    """The steps that a span stands for. Raises `WiringError` if there are not so many."""
    count = span if isinstance(span, int) else round(span * steps)
    if count > steps:
        raise WiringError(
            f"{field} is longer than the stage",
            found=f"{count} steps",
            expected=f"at most {steps}, or a fraction below 1",
            field=(field,),
        )
    return count


class WarmupSpec(ScheduleSpec):
    """A factor of the learning rate, 1 at its peak.

    Step s of w warm-up steps has the factor (s + 1) / (w + 1); step w is the peak.
    """

    warmup: Span = Field(0, description="warm-up steps, or the fraction of all steps")

    def build(self, steps: int) -> Schedule:
        """Step (from 0) -> factor. Raises `WiringError` if spans exceed the stage."""
        warmup = count_steps(self.warmup, steps, "warmup")
        after = self.after(warmup, steps)

        def factor(step: Any) -> Float[Array, ""]:
            step = jnp.asarray(step, jnp.float32)
            rising = (step + 1) / (warmup + 1)
            return jnp.where(step < warmup, rising, after(jnp.maximum(step - warmup, 0.0)))

        return factor

    def after(self, warmup: int, steps: int) -> Schedule:
        """The factor by the number of steps since the peak."""
        raise NotImplementedError


def progress(since: Float[Array, ""], warmup: int, steps: int) -> Float[Array, ""]:
    """0 at the peak, 1 after the last step."""
    return jnp.clip(since / max(steps - warmup, 1), 0.0, 1.0)

"""Decay in steps."""

from typing import Annotated, Any, Literal

import jax.numpy as jnp
from pydantic import Field

from fusekit.component import register
from fusekit_modules.schedules._warmup import Schedule, Span, WarmupSpec, count_steps


@register
class StepSpec(WarmupSpec):
    """Multiplies the learning rate by `factor` at each of some steps of the stage."""

    type: Literal["step"] = "step"
    at: Annotated[tuple[Span, ...], Field(min_length=1)] = Field(
        (0.5, 0.75), description="steps, or fractions of all steps; they count from the start"
    )
    factor: float = Field(0.1, gt=0, lt=1, description="what each multiplies by")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"at": [3, 6], "factor": 0.5, "warmup": 1}]

    def after(self, warmup: int, steps: int) -> Schedule:
        marks = jnp.asarray([count_steps(span, steps, "at") - warmup for span in self.at])
        return lambda since: self.factor ** jnp.sum(since >= marks).astype(jnp.float32)

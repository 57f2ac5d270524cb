"""Lines between given points."""

from itertools import pairwise
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from pydantic import Field, model_validator

from fusekit.component import ScheduleSpec, register
from fusekit.errors import WiringError
from fusekit_modules.schedules._warmup import Factor, Schedule, Span, count_steps


@register
class PiecewiseSpec(ScheduleSpec):
    """Lines from 1 at the first step through the given points, and the last factor from there on;
    or, with `between: hold`, each factor until the next point."""

    type: Literal["piecewise"] = "piecewise"
    at: Annotated[tuple[Span, ...], Field(min_length=1)] = Field(
        (0.5,), description="steps, or fractions of all steps, in order"
    )
    factors: Annotated[tuple[Factor, ...], Field(min_length=1)] = Field(
        (0.1,), description="factor at each of them"
    )
    between: Literal["line", "hold"] = Field("line", description="how one leads to the next")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"at": [0, 3, 0.9], "factors": [0.1, 1.0, 0.0], "between": "hold"}]

    @model_validator(mode="after")
    def _pairs(self) -> "PiecewiseSpec":
        if len(self.at) != len(self.factors):
            raise ValueError(f"one factor a point: {len(self.at)} points, {len(self.factors)}")
        return self

    def build(self, steps: int) -> Schedule:
        """Step (from 0) -> factor. Raises `WiringError` for points beyond the stage or in
        disorder."""
        marks = [count_steps(span, steps, "at") for span in self.at]
        if any(a >= b for a, b in pairwise(marks)):
            raise WiringError("the points do not ascend", found=marks, field=("at",))
        values = list(self.factors)
        if marks[0] > 0:
            marks, values = [0, *marks], [1.0, *values]
        at, factors = jnp.asarray(marks, jnp.float32), jnp.asarray(values, jnp.float32)

        def factor(step: Any) -> Any:
            step = jnp.asarray(step, jnp.float32)
            if self.between == "line":
                return jnp.interp(step, at, factors)
            return factors[jnp.sum(step[..., None] >= at, axis=-1) - 1]

        return factor

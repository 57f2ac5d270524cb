"""Polynomial decay."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import Positive, register
from fusekit_modules.schedules._warmup import Factor, Schedule, WarmupSpec, progress


@register
class PolynomialSpec(WarmupSpec):
    """final + (1 - final) (1 - p) ** power at the share p of the steps since the peak, over a stage
    (Chen et al. 2017, section 4.1, has the power 0.9)."""

    type: Literal["polynomial"] = "polynomial"
    power: Positive = Field(2.0, description="1 is a line; above it the rate falls early")
    final: Factor = Field(0.0, description="factor at the end")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"power": 0.9, "warmup": 2, "final": 0.1}]

    def after(self, warmup: int, steps: int) -> Schedule:
        rest = 1 - self.final
        return lambda since: self.final + rest * (1 - progress(since, warmup, steps)) ** self.power

"""Linear decay."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import register
from fusekit_modules.schedules._warmup import Factor, Schedule, WarmupSpec, progress


@register
class LinearSpec(WarmupSpec):
    """A line from the peak to `final`, over a stage."""

    type: Literal["linear"] = "linear"
    final: Factor = Field(0.0, description="factor at the end")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"warmup": 2, "final": 0.1}]

    def after(self, warmup: int, steps: int) -> Schedule:
        return lambda since: 1 - (1 - self.final) * progress(since, warmup, steps)

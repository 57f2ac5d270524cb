"""Cosine decay with warm restarts."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from fusekit.component import Count, Positive, register
from fusekit_modules.schedules._warmup import Factor, Schedule, WarmupSpec


@register
class RestartsSpec(WarmupSpec):
    """Half a cosine from the peak to `final`, again and again: SGDR (Loshchilov and Hutter 2017).

    The steps since the peak are cut into `cycles`, each `longer` times as long as the one before
    it. Each begins at `lower` times the height of that one.
    """

    type: Literal["restarts"] = "restarts"
    cycles: Count = Field(3, description="how many cosines a stage holds")
    longer: Positive = Field(1.0, description="length of a cycle over that of the one before")
    lower: float = Field(1.0, gt=0, le=1, description="height of a cycle over that of the last")
    final: Factor = Field(0.0, description="factor at the end of each, at most its height")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"cycles": 2, "longer": 2.0, "lower": 0.5, "warmup": 1, "final": 0.01}]

    def starts(self, steps: int) -> np.ndarray:
        """`[cycles + 1]`: where each begins, and the end, in whole steps since the peak."""
        lengths = self.longer ** np.arange(self.cycles)
        shares = np.concatenate([[0.0], np.cumsum(lengths) / lengths.sum()])
        return np.round(shares * max(steps, 1))

    def after(self, warmup: int, steps: int) -> Schedule:
        starts = self.starts(steps - warmup)
        begins, ends = jnp.asarray(starts[:-1]), jnp.asarray(starts[1:])
        heights = jnp.asarray(self.lower ** np.arange(self.cycles))

        def factor(since: Any) -> Any:
            cycle = jnp.clip(jnp.sum(since[..., None] >= begins, axis=-1) - 1, 0)
            length = jnp.maximum(ends[cycle] - begins[cycle], 1)
            share = jnp.clip((since - begins[cycle]) / length, 0.0, 1.0)
            height, final = heights[cycle], jnp.minimum(heights[cycle], self.final)
            return final + (height - final) * (1 + jnp.cos(jnp.pi * share)) / 2

        return factor

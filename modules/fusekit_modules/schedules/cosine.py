"""Cosine decay."""

from typing import Any, Literal

import jax.numpy as jnp
from pydantic import Field

from fusekit.component import register
from fusekit_modules.schedules._warmup import Factor, Schedule, WarmupSpec, progress


@register
class CosineSpec(WarmupSpec):
    """Half a cosine from the peak to `final`, over a stage (Loshchilov and Hutter 2017).

    At the share p of the steps since the peak: final + (1 - final) (1 + cos(pi p)) / 2.
    """

    type: Literal["cosine"] = "cosine"
    final: Factor = Field(0.0, description="factor at the end")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"warmup": 0.1, "final": 0.1}]

    def after(self, warmup: int, steps: int) -> Schedule:
        rest = 1 - self.final
        return lambda s: self.final + rest * (1 + jnp.cos(jnp.pi * progress(s, warmup, steps))) / 2

"""LAMB."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import Positive, register
from fusekit_modules.optimizers._fields import MomentsSpec


@register
class LambSpec(MomentsSpec):
    """Adam with steps as long as the parameter's norm, array by array (You et al. 2020)."""

    elementwise = False
    type: Literal["lamb"] = "lamb"
    eps: Positive = Field(1e-6, description="added to the root of the squares")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"weight_decay": 0.01}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.lamb(
            learning_rate, b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay
        )

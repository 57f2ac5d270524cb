"""Adam."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import OptimizerSpec, Positive, register
from fusekit_modules.optimizers._fields import Momentum


@register
class AdamSpec(OptimizerSpec):
    """Adam (Kingma and Ba 2015), without weight decay."""

    type: Literal["adam"] = "adam"
    b1: Momentum = Field(0.9, description="decay of the mean of gradients")
    b2: Momentum = Field(0.999, description="decay of the mean of their squares")
    eps: Positive = Field(1e-8, description="added to the root of the squares")

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.adam(learning_rate, b1=self.b1, b2=self.b2, eps=self.eps)

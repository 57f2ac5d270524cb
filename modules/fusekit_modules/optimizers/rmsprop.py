"""RMSProp."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import OptimizerSpec, Positive, register
from fusekit_modules.optimizers._fields import Momentum


@register
class RmsPropSpec(OptimizerSpec):
    """Gradients over the root of their running mean square (Tieleman and Hinton 2012)."""

    type: Literal["rmsprop"] = "rmsprop"
    decay: Momentum = Field(0.9, description="decay of the mean of squares")
    eps: Positive = Field(1e-8, description="added to the root of the squares")
    centered: bool = Field(False, description="whether squares are about the mean gradient")
    momentum: Momentum = Field(0.0, description="decay of the velocity; 0 for none")
    nesterov: bool = Field(False, description="look ahead by one step of momentum")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"centered": True, "momentum": 0.9, "nesterov": True}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.rmsprop(
            learning_rate,
            decay=self.decay,
            eps=self.eps,
            eps_in_sqrt=False,
            centered=self.centered,
            momentum=self.momentum or None,
            nesterov=self.nesterov,
        )

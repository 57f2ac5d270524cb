"""Stochastic gradient descent."""

from typing import Any, Literal

import optax
from pydantic import Field, model_validator

from fusekit.component import OptimizerSpec, register
from fusekit_modules.optimizers._fields import Decay, Momentum


@register
class SgdSpec(OptimizerSpec):
    """Gradient descent, with momentum if given (Sutskever et al. 2013).

    Weight decay is added to the gradient, before momentum.
    """

    type: Literal["sgd"] = "sgd"
    momentum: Momentum = Field(0.0, description="decay of the velocity; 0 for none")
    nesterov: bool = Field(False, description="look ahead by one step of momentum")
    weight_decay: Decay = Field(0.0, description="share of a parameter added to its gradient")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}]

    @model_validator(mode="after")
    def _ahead(self) -> "SgdSpec":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov looks ahead by momentum: give one above 0")
        return self

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        step = optax.sgd(learning_rate, momentum=self.momentum or None, nesterov=self.nesterov)
        if not self.weight_decay:
            return step
        return optax.chain(optax.add_decayed_weights(self.weight_decay), step)

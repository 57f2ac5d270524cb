"""AdamW."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import register
from fusekit_modules.optimizers._fields import Decay, MomentsSpec


@register
class AdamWSpec(MomentsSpec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    weight_decay: Decay = Field(0.01, description="share of a parameter, times the learning rate")
    nesterov: bool = Field(False, description="look ahead, as in NAdam (Dozat 2016)")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"b2": 0.95, "weight_decay": 0.1, "nesterov": True}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.adamw(
            learning_rate,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )

"""NAdam."""

from typing import Any, Literal

import optax

from fusekit.component import register
from fusekit_modules.optimizers._fields import MomentsSpec


@register
class NadamSpec(MomentsSpec):
    """Adam that looks ahead by one step of momentum (Dozat 2016); weight decay is decoupled."""

    type: Literal["nadam"] = "nadam"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"b1": 0.95, "weight_decay": 0.1}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.nadamw(
            learning_rate, b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay
        )

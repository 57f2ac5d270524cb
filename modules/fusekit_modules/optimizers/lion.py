"""Lion."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import register
from fusekit_modules.optimizers._fields import DecayingSpec, Momentum


@register
class LionSpec(DecayingSpec):
    """Steps by the sign of the momentum (Chen et al. 2023, algorithm 2).

    Wants a learning rate 3 to 10 times smaller than AdamW, and as much more weight decay.
    """

    type: Literal["lion"] = "lion"
    b1: Momentum = Field(0.9, description="share of the momentum in a step")
    b2: Momentum = Field(0.99, description="decay of the momentum")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"b1": 0.95, "b2": 0.98, "weight_decay": 0.1}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.lion(learning_rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay)

"""RAdam."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import register
from fusekit_modules.optimizers._fields import MomentsSpec


@register
class RadamSpec(MomentsSpec):
    """Adam that takes plain momentum until the mean of squares can be trusted (Liu et al. 2020,
    algorithm 2), and so needs no warm-up; weight decay is decoupled."""

    type: Literal["radam"] = "radam"
    threshold: float = Field(
        5.0, gt=4, le=1e6, description="length of the average from which squares are trusted"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"b2": 0.9, "weight_decay": 0.1}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_radam(b1=self.b1, b2=self.b2, eps=self.eps, threshold=self.threshold),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )

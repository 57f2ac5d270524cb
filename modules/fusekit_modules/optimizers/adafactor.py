"""Adafactor."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import Count, Positive, register
from fusekit_modules.optimizers._fields import DecayingSpec, Momentum


@register
class AdafactorSpec(DecayingSpec):
    """Mean squares kept by rows and columns of large matrices (Shazeer and Stern 2018)."""

    elementwise = False
    type: Literal["adafactor"] = "adafactor"
    factor_from: Count = Field(128, description="least size of both axes that are factored")
    decay: Momentum = Field(0.8, description="exponent: squares decay by 1 - step ** -decay")
    relative: bool = Field(True, description="whether steps scale with the parameter's size")
    clip: Positive | None = Field(1.0, description="bound on a step's root mean square")
    momentum: Momentum = Field(0.0, description="decay of the velocity; 0 for none")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"factor_from": 2, "momentum": 0.9, "relative": False, "weight_decay": 0.1}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        step = optax.adafactor(
            learning_rate,
            min_dim_size_to_factor=self.factor_from,
            decay_rate=self.decay,
            multiply_by_parameter_scale=self.relative,
            clipping_threshold=self.clip,
            momentum=self.momentum or None,
        )
        if not self.weight_decay:
            return step
        rate: Any = learning_rate if callable(learning_rate) else lambda step: learning_rate
        decay = optax.add_decayed_weights(lambda step: -self.weight_decay * rate(step))
        return optax.chain(step, decay)

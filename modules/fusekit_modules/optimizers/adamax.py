"""Adamax."""

from typing import Any, Literal

import optax

from fusekit.component import register
from fusekit_modules.optimizers._fields import MomentsSpec


@register
class AdamaxSpec(MomentsSpec):
    """Adam by the greatest gradient, decayed by `b2`, in place of the root of squares (Kingma and
    Ba 2015, section 7.1); weight decay is decoupled."""

    type: Literal["adamax"] = "adamax"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"b2": 0.9, "weight_decay": 0.1}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.adamaxw(
            learning_rate, b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay
        )

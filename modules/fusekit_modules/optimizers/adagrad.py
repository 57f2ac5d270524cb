"""Adagrad."""

from typing import Annotated, Any, Literal

import optax
from pydantic import Field

from fusekit.component import OptimizerSpec, Positive, register


@register
class AdagradSpec(OptimizerSpec):
    """Gradients over the root of the sum of their squares so far (Duchi et al. 2011)."""

    type: Literal["adagrad"] = "adagrad"
    start: Annotated[float, Field(ge=0.0)] = Field(0.1, description="of the sum of squares")
    eps: Positive = Field(1e-7, description="added to the sum before its root")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"start": 0.0, "eps": 1e-10}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.adagrad(learning_rate, initial_accumulator_value=self.start, eps=self.eps)

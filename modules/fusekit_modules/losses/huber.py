"""Huber's loss."""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Positive, register
from fusekit_modules.losses._regression import RegressionSpec


@register
class HuberSpec(RegressionSpec):
    """Half the square of small differences, linear beyond `delta` (Huber 1964, equation 1.7).

    e**2 / 2 for |e| up to delta, delta (|e| - delta / 2) beyond; averaged over features.
    """

    type: Literal["huber"] = "huber"
    delta: Positive = Field(1.0, description="where the square turns into a line")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [*super().examples(), {**super().examples()[0], "delta": 0.5}]

    def penalty(self, difference: Float[Array, "*n"]) -> Float[Array, "*n"]:
        near = jnp.clip(difference, -self.delta, self.delta)
        return near * (difference - near / 2)

"""Squared error."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.component import register
from fusekit_modules.losses._regression import RegressionSpec


@register
class SquaredErrorSpec(RegressionSpec):
    """The square of the difference, averaged over features."""

    type: Literal["squared_error"] = "squared_error"

    def penalty(self, difference: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.square(difference)

"""Absolute error."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.component import register
from fusekit_modules.losses._regression import RegressionSpec


@register
class AbsoluteErrorSpec(RegressionSpec):
    """The size of the difference, averaged over features. Its gradient at zero is zero."""

    type: Literal["absolute_error"] = "absolute_error"

    def penalty(self, difference: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(difference == 0, 0.0, jnp.abs(difference))  # JAX has slope 1 at zero

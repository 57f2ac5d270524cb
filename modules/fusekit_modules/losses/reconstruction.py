"""Hidden patches, predicted."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Signatures, register
from fusekit.errors import WiringError
from fusekit_modules.layers.expect import expect_sequence
from fusekit_modules.losses._regression import Regression, RegressionSpec

EPSILON = 1e-6


@register
class ReconstructionSpec(RegressionSpec):
    """The error of predicted patches, averaged over the numbers of a patch and then over patches
    (He et al. 2022, masked autoencoders, section 3).

    `where` tells which patches count, such as `batch.masked.hidden`. With `normalise` the target
    is each patch less its mean and over its deviation, sqrt(v + 1e-6) with the unbiased variance v.
    """

    type: Literal["reconstruction"] = "reconstruction"
    normalise: bool = Field(False, description="whether each target patch is normalised by itself")
    error: Literal["squared", "absolute"] = Field("squared", description="of each number")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = super().examples()[0]
        return [names, {**names, "normalise": True, "error": "absolute"}]

    def penalty(self, difference: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.square(difference) if self.error == "squared" else jnp.abs(difference)

    def check(self, inputs: Signatures) -> None:
        """Sequences of patches, of one shape. Raises `WiringError` otherwise."""
        for role in ("prediction", "target"):
            expect_sequence(inputs[role], role, field=(role,))
        super().check(inputs)
        if self.normalise and inputs["target"].width < 2:
            raise WiringError(
                "a patch of one number has no deviation",
                found=inputs["target"],
                expected="normalise: false",
                field=("normalise",),
            )

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Reconstruction":
        return Reconstruction(self, inputs["prediction"].length)


class Reconstruction(Regression):
    """Patches `[b, n, p]` and `[b, n, p]`."""

    def __init__(self, spec: ReconstructionSpec, positions: int):
        super().__init__(spec.penalty, positions)
        self.normalise = spec.normalise

    def wanted(self, target: Float[Array, "b n p"]) -> Float[Array, "b n p"]:
        if not self.normalise:
            return target
        deviation = jnp.sqrt(jnp.var(target, axis=-1, keepdims=True, ddof=1) + EPSILON)
        return (target - jnp.mean(target, axis=-1, keepdims=True)) / deviation

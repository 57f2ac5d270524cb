"""What contrasts of unit vectors within the batch share: their fields, and the temperature."""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Coupling, LossSpec, Positive, Signatures
from fusekit.config.reference import Refs
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.losses._count import check_where, keep, wide
from fusekit_modules.losses.info_nce import at_most


class ContrastSpec(LossSpec):
    """A contrast with the other rows of the batch. Rows that do not count are no negatives."""

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "the other rows of the batch are the negatives"
    fewest: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    inputs: Refs = Field(description="vectors of one width")
    temperature: Positive = Field(0.07, description="what similarities are divided by, at first")
    learn: bool = Field(True, description="whether the temperature is a parameter")
    least: Positive = Field(0.01, description="the temperature is not taken below this")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = ["a", "b", "c"][: cls.fewest]
        return [{"inputs": names}, {"inputs": names, "learn": False}]

    def check(self, inputs: Signatures) -> None:
        """Vectors of one width. Raises `WiringError` otherwise."""
        vectors = {role: given for role, given in inputs.items() if role != "where"}
        expect_count(vectors, least=self.fewest, most=self.most)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        check_where(inputs, None)


class Contrast(nnx.Module):
    """Owns the logarithm of the inverse temperature, if that is learned."""

    def __init__(self, spec: ContrastSpec, *, rngs: nnx.Rngs):
        self.first, self.bound = -math.log(spec.temperature), -math.log(spec.least)
        init = nnx.initializers.constant(self.first)
        self.scale = parameter(rngs, init, (), ()) if spec.learn else None

    def inverse(self, dtype: Any) -> Float[Array, ""]:
        """One over the temperature."""
        log_scale = self.first if self.scale is None else self.scale[...]
        return jnp.exp(at_most(jnp.asarray(log_scale, dtype), self.bound))


def units(streams: dict[str, Stream], valid: Bool[Array, "b"]) -> list[Float[Array, "b d"]]:
    """The inputs `[b, d]` in order, scaled to length one; zeros in rows that do not count."""
    return [unit(keep(wide(s.values), valid)) for role, s in streams.items() if role != "where"]

"""Distance of two distributions."""

from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Coupling, LossSpec, LossValue, Positive, Signatures, register
from fusekit.config.reference import Refs
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._distance import squared_distances

Bandwidths = Annotated[tuple[Positive, ...], Field(min_length=1)]


@register
class MmdSpec(LossSpec):
    """The squared maximum mean discrepancy of two inputs (Gretton et al. 2012, lemma 6).

    The kernel is the sum over bandwidths s of exp(-|x - y|^2 / (2 s^2)), where s is taken in units
    of the root mean square distance of all vectors, through which no gradient goes (`relative`), or
    as it is. `unbiased` leaves out the pairs of a row with itself within an input, so it may be
    negative, and with one row only nothing counts.
    """

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "distributions over the batch are compared"

    type: Literal["mmd"] = "mmd"
    inputs: Refs = Field(description="two vectors of one width")
    bandwidths: Bandwidths = Field((0.25, 0.5, 1.0, 2.0), description="one a Gaussian kernel")
    relative: bool = Field(True, description="whether bandwidths are in units of the distances")
    estimate: Literal["unbiased", "biased"] = Field("unbiased", description="of the two, which")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = {"inputs": ["a", "b"]}
        return [names, {**names, "estimate": "biased", "relative": False}]

    def check(self, inputs: Signatures) -> None:
        """Two vectors of one width. Raises `WiringError` otherwise."""
        vectors = {role: given for role, given in inputs.items() if role != "where"}
        expect_count(vectors, least=2, most=2)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Mmd":
        return Mmd(self)


class Mmd(nnx.Module):
    """Vectors `[b, d]` and `[b, d]`."""

    def __init__(self, spec: MmdSpec):
        self.bandwidths, self.relative = spec.bandwidths, spec.relative
        self.unbiased = spec.estimate == "unbiased"

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        x, y = (keep(wide(s.values), valid) for role, s in streams.items() if role != "where")
        count = jnp.sum(valid).astype(x.dtype)
        centre = jnp.sum(x + y, axis=0) / (2 * jnp.maximum(count, 1))
        x, y = keep(x - centre, valid), keep(y - centre, valid)
        same = jnp.eye(valid.shape[0], dtype=bool)
        xx, yy = (jnp.where(same, 0, squared_distances(v, v)) for v in (x, y))
        unit = self._unit(x, y, count)
        kernels = [self._kernel(d / unit) for d in (xx, yy, squared_distances(x, y))]
        wanted = valid[:, None] & valid[None]
        within = jnp.where(wanted & ~same if self.unbiased else wanted, kernels[0] + kernels[1], 0)
        across = jnp.where(wanted, kernels[2] + kernels[2].T, 0)
        pairs = jnp.maximum(count - 1 if self.unbiased else count, 1)
        each = jnp.sum(within, axis=1) / pairs - jnp.sum(across, axis=1) / jnp.maximum(count, 1)
        return summed(each, valid & (count > 1) if self.unbiased else valid)

    def _unit(
        self, x: Float[Array, "b d"], y: Float[Array, "b d"], count: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The mean square distance of two different ones of all vectors, which are centred."""
        if not self.relative:
            return jnp.ones((), x.dtype)
        total = 2 * jnp.sum(jnp.square(x) + jnp.square(y)) / jnp.maximum(2 * count - 1, 1)
        return jax.lax.stop_gradient(jnp.where(total > 0, total, 1))

    def _kernel(self, square: Float[Array, "b b"]) -> Float[Array, "b b"]:
        each = [jnp.exp(-square / (2 * s * s)) for s in self.bandwidths]
        return sum(each[1:], each[0])

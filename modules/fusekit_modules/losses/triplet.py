"""Ranking by a margin."""

from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Coupling, LossSpec, LossValue, Signatures, register
from fusekit.config.reference import Ref, Refs
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.layers.largest import largest
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._distance import squared_distances
from fusekit_modules.losses._positives import check_positives, same_key

Negatives = Literal["hardest", "semi_hard", "all"]
Margin = Annotated[float, Field(ge=0.0, le=1e6)]


@register
class TripletSpec(LossSpec):
    """max(0, m + d(a, p) - d(a, n)) for an anchor a, its positive p, a negative n and margin m.

    Of two inputs the first is the anchor and its row of the second the positive; negatives are the
    other rows of the second, but those of the same key in `positives`: the nearest (`hardest`;
    Faghri et al. 2018, VSE++, equation 6), the nearest that is farther than the positive, or the
    farthest if none is (`semi_hard`; Schroff et al. 2015, section 3.2), or the mean over `all`.
    Both directions are averaged. A row without a negative does not count. A third input, if there
    is one, is the negative, such as what `hard_negatives` picks.
    """

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "the other rows of the batch are the negatives"

    type: Literal["triplet"] = "triplet"
    inputs: Refs = Field(description="anchor and positive, or anchor, positive and negative")
    positives: Ref | None = Field(None, description="a key: rows of the same key are no negatives")
    margin: Margin = Field(0.2, description="by how much negatives should be farther")
    distance: Literal["cosine", "squared"] = Field(
        "cosine", description="one minus the cosine, or the squared distance"
    )
    negatives: Negatives = Field("hardest", description="which rows of the batch are taken")
    direction: Literal["both", "first"] = Field(
        "both", description="first: the second input is no anchor"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        pair = {"inputs": ["m0", "m1"]}
        return [
            pair,
            {**pair, "negatives": "semi_hard", "direction": "first"},
            {**pair, "negatives": "all", "distance": "squared"},
        ]

    def check(self, inputs: Signatures) -> None:
        """Two or three vectors of one width. Raises `WiringError` otherwise."""
        vectors = {k: v for k, v in inputs.items() if k not in ("positives", "where")}
        expect_count(vectors, least=2, most=3)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        check_positives(inputs)
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Triplet":
        return Triplet(self, inputs)


class Triplet(nnx.Module):
    """Vectors `[b, d]`, two or three."""

    def __init__(self, spec: TripletSpec, inputs: Signatures):
        self.names = tuple(role for role in inputs if role not in ("positives", "where"))
        self.margin, self.cosine = spec.margin, spec.distance == "cosine"
        self.negatives: Negatives = spec.negatives
        self.both = spec.direction == "both"

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        vectors = [keep(wide(streams[name].values), valid) for name in self.names]
        if self.cosine:
            vectors = [unit(v) for v in vectors]
        anchor, positive, *negative = vectors
        if negative:
            near, far = (self._one(anchor, other) for other in (positive, negative[0]))
            return summed(jax.nn.relu(self.margin + near - far), valid)
        own = jnp.eye(valid.shape[0], dtype=bool)
        other = valid[:, None] & valid[None] & ~(same_key(streams, valid) | own)
        distances = self._all(anchor, positive)
        each = self._ranked(distances, own, other)
        if self.both:
            each = (each + self._ranked(distances.T, own, other)) / 2
        return summed(each, valid & jnp.any(other, axis=1))

    def _one(self, a: Float[Array, "b d"], b: Float[Array, "b d"]) -> Float[Array, "b"]:
        if self.cosine:
            return 1 - jnp.sum(a * b, axis=1)
        return jnp.sum(jnp.square(a - b), axis=1)

    def _all(self, a: Float[Array, "b d"], b: Float[Array, "b d"]) -> Float[Array, "b b"]:
        return 1 - a @ b.T if self.cosine else squared_distances(a, b)

    def _ranked(
        self, distances: Float[Array, "b b"], own: Bool[Array, "b b"], other: Bool[Array, "b b"]
    ) -> Float[Array, "b"]:
        """What each row adds; of rows without a negative something finite."""
        near = jnp.sum(jnp.where(own, distances, 0), axis=1)
        if self.negatives == "all":
            over = jax.nn.relu(self.margin + near[:, None] - distances)
            count = jnp.maximum(jnp.sum(other, axis=1), 1)
            return jnp.sum(jnp.where(other, over, 0), axis=1) / count
        far = self._nearest(distances, other)
        if self.negatives == "semi_hard":
            beyond = other & (distances > near[:, None])
            farthest = -self._nearest(-distances, other)
            some = jnp.any(beyond, axis=1)
            far = jnp.where(some, self._nearest(distances, beyond), farthest)
        return jax.nn.relu(self.margin + near - far)

    @staticmethod
    def _nearest(distances: Float[Array, "b b"], among: Bool[Array, "b b"]) -> Float[Array, "b"]:
        """The least distance by row; zero where there is none."""
        least = -largest(jnp.where(among, -distances, -jnp.inf), axis=1)
        return keep(least, jnp.any(among, axis=1))

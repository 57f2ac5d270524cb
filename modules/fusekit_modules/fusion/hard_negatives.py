"""Other rows that resemble a row."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Coupling, FusionSpec, Outputs, Positive, Signatures, register
from fusekit.config.reference import Ref, Refs
from fusekit.context import Context
from fusekit.stream import Signature, Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_scalar, expect_vector

READ = ("pick", "positives")


@register
class HardNegativesSpec(FusionSpec):
    """For each row the stream `pick` of another row: a negative that resembles it (Li et al. 2021,
    ALBEF, section 3.2).

    `inputs` are for whom and among whom: row i of the first is compared with row j of the second.
    In training j is drawn in proportion to the exponential of similarity over temperature, else it
    is the most similar. The row itself and rows of its key in `positives` are never taken, nor such
    as lack the second input, the key or what is picked. A row that lacks the first input, its key
    or a candidate is absent. What is picked keeps mask, labels and positions of its row; gradients
    pass to it, and none to the similarities.
    """

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "each row is given what another row of the batch holds"

    type: Literal["hard_negatives"] = "hard_negatives"
    inputs: Refs = Field(description="for whom and among whom: two vectors of one width")
    pick: Ref | None = Field(None, description="what is picked; default the second input")
    positives: Ref | None = Field(None, description="a key: rows of the same key are no negatives")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="how vectors are compared")
    temperature: Positive = Field(0.07, description="what similarities are divided by")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"similarity": "dot", "temperature": 1.0}]

    def infer(self, inputs: Signatures) -> Outputs:
        """What is picked, which may be absent. Raises `WiringError` for other than two vectors."""
        vectors = {role: given for role, given in inputs.items() if role not in READ}
        expect_count(vectors, least=2, most=2)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        if "positives" in inputs:
            expect_scalar(inputs["positives"], "positives", field=("positives",))
        picked: Signature = inputs.get("pick", [*vectors.values()][1])
        return picked.with_(optional=True)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "HardNegatives":
        return HardNegatives(self, inputs)


class HardNegatives(nnx.Module):
    """Vectors `[b, d]`, twice, and any stream -> that stream with its rows moved."""

    def __init__(self, spec: HardNegativesSpec, inputs: Signatures):
        self.names = tuple(role for role in inputs if role not in READ)
        self.cosine, self.temperature = spec.similarity == "cosine", spec.temperature

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        asks, among = (streams[name] for name in self.names)
        picked = streams.get("pick", among).clean()
        logits = self._compared(asks) @ self._compared(among).T / self.temperature
        allowed = _allowed(asks, among, picked, streams)
        logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
        if context.training:
            chosen = jax.random.categorical(context.rng("hard_negatives"), logits, axis=1)
        else:
            chosen = jnp.argmax(logits, axis=1)
        moved = {name: _rows(getattr(picked, name), chosen) for name in ("values", "mask")}
        for name in ("label", "item", "segment", "position"):
            array = getattr(picked, name)
            moved[name] = array if array is None or array.ndim == 1 else _rows(array, chosen)
        return picked.with_(**moved, presence=jnp.any(allowed, axis=1)).clean()

    def _compared(self, stream: Stream) -> Float[Array, "b d"]:
        values = jax.lax.stop_gradient(stream.clean().values)
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
        return unit(values) if self.cosine else values


def _allowed(
    asks: Stream, among: Stream, picked: Stream, streams: Mapping[str, Stream]
) -> Bool[Array, "b b"]:
    """Which rows may be taken for which."""
    allowed = ~jnp.eye(asks.batch, dtype=bool)
    if asks.presence is not None:
        allowed = allowed & asks.presence[:, None]
    for stream in (among, picked):
        if stream.presence is not None:
            allowed = allowed & stream.presence[None]
    if "positives" not in streams:
        return allowed
    key = streams["positives"]
    allowed = allowed & (key.values[:, None] != key.values[None])
    if key.presence is None:
        return allowed
    return allowed & key.presence[:, None] & key.presence[None]


def _rows(array: Array | None, chosen: Array) -> Array | None:
    return None if array is None else jnp.take(array, chosen, axis=0)

"""Late interaction of two token sequences."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import FusionSpec, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Stream, all_present, vector
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.layers.largest import largest
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.wide import wide


@register
class LateInteractionSpec(FusionSpec):
    """Each query token is compared with its nearest item token: MaxSim (ColBERT, Khattab and
    Zaharia 2020, eq. 3).

    The first input is the query, the second the item; the score, a vector of one, is the sum or
    mean over query tokens of the largest cosine. Port `by_label`: the score against the tokens of
    each label of the item alone, one an entry and under its name (CLaMR's similarity by modality);
    where a row has no token of a label, that of opposite vectors, the lowest there is. A row is
    present where both inputs are.
    """

    type: Literal["late_interaction"] = "late_interaction"
    width: Width | None = Field(None, description="both are mapped to it; default they are not")
    reduce: Literal["sum", "mean"] = Field("sum", description="over the query's tokens")

    def infer(self, inputs: Signatures) -> Outputs:
        """One number a row, and one a label. Raises `WiringError` unless there are two sequences,
        of one width where none is given."""
        expect_count(inputs, least=2, most=2)
        query, item = (expect_sequence(given, role) for role, given in inputs.items())
        if self.width is None:
            expect_same(inputs, "embed", hint="one width, or `width` to map both to")
        optional, names = query.optional or item.optional, labels_of(item.spans)
        by_label = vector(len(names), optional=optional).with_(names=names)
        return {"out": vector(1, optional=optional), "by_label": by_label}

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "LateInteraction":
        return LateInteraction(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"width": 4, "reduce": "mean"}]


def labels_of(spans: Any) -> tuple[str, ...]:
    """The labels in order, each once."""
    return tuple(dict.fromkeys(span.label for span in spans))


class LateInteraction(nnx.Module):
    """`[b, q, d], [b, t, e] -> [b, 1]`."""

    def __init__(self, spec: LateInteractionSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.reduce, axes = spec.reduce, ("embed", "features")
        widths = [given.width for given in inputs.values()] if spec.width else []
        self.project = nnx.List(
            [Linear(w, spec.width or 1, axes=axes, bias=False, rngs=rngs) for w in widths]
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given = [stream.clean() for stream in streams.values()]
        values = [stream.values for stream in given]
        if self.project:
            values = [project(x) for project, x in zip(self.project, values, strict=True)]
        query, item = (unit(wide(x)) for x in values)
        similar = jnp.einsum("bqd,btd->bqt", query, item, precision="highest")
        asked, there = (everywhere(stream) for stream in given)
        own = given[1].spans
        names = jnp.asarray([labels_of(own).index(s.label) for s in own for _ in range(s.size)])
        columns = [there & (names == k) for k in range(len(labels_of(own)))]
        scores = [self.score(similar, asked, where) for where in (there, *columns)]
        found = jnp.stack(scores, axis=1).astype(values[0].dtype)
        out = Stream(found[:, :1], presence=all_present(given))
        return {"out": out.clean(), "by_label": out.with_(values=found[:, 1:]).clean()}

    def score(
        self, similar: Float[Array, "b q t"], asked: Bool[Array, "b q"], there: Bool[Array, "b t"]
    ) -> Float[Array, "b"]:
        nearest = largest(jnp.where(there[:, None], similar, -1.0), axis=2)
        total = jnp.sum(jnp.where(asked, nearest, 0.0), axis=1)
        return total / jnp.maximum(jnp.sum(asked, axis=1), 1) if self.reduce == "mean" else total


def everywhere(stream: Stream) -> Bool[Array, "b t"]:
    valid = stream.valid()
    return jnp.ones(stream.values.shape[:2], bool) if valid is None else valid

"""Contrast of token sequences within the batch."""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import LossValue, Positive, Signatures, register
from fusekit.config.reference import Ref, Refs
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.layers.largest import largest
from fusekit_modules.losses._contrast import Contrast, ContrastSpec, contrast
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._positives import check_positives, same_key


@register
class LateInteractionLossSpec(ContrastSpec):
    """Contrast with the batch where rows are compared by MaxSim (ColBERT, Khattab and Zaharia 2020,
    eq. 3): the sum or mean over query tokens of the largest cosine with an item token.

    The first input is the query, the second the item. A row adds the cross-entropy of its item
    among all items; with `both` the mean of this and that of its query among all queries, by the
    same similarities. Rows that do not count, or in which either sequence has no valid token, are
    no negatives. With `positives`, all rows of one key are positives of each other, and a row's
    target is spread evenly over them. Readout tokens are tokens too.

    Memory grows with the product of the batch squared and both lengths.
    """

    most: ClassVar[int | None] = 2

    type: Literal["late_interaction"] = "late_interaction"
    inputs: Refs = Field(description="query and item: sequences of one width")
    reduce: Literal["sum", "mean"] = Field("sum", description="over the query's valid tokens")
    temperature: Positive = Field(1.0, description="what similarities are divided by, at first")
    positives: Ref | None = Field(None, description="a key: rows of the same key are positives")
    direction: Literal["both", "first"] = Field(
        "both", description="first: only queries are told among items"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        pair = {"inputs": ["m0", "m1"]}
        one = {"reduce": "mean", "temperature": 0.1, "learn": False, "direction": "first"}
        return [pair, {**pair, **one}]

    def others(self) -> frozenset[str]:
        return frozenset({"where", "positives"})

    def check(self, inputs: Signatures) -> None:
        """Two sequences of one width. Raises `WiringError` otherwise."""
        sequences = self.vectors(inputs)
        expect_count(sequences, least=self.fewest, most=self.most)
        for role, given in sequences.items():
            expect_sequence(given, role)
        expect_same(sequences, "embed", hint="projections to one width")
        check_positives(inputs)
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "LateInteractionLoss":
        return LateInteractionLoss(self, inputs, rngs=rngs)


class LateInteractionLoss(Contrast):
    """Sequences `[b, q, d]` and `[b, t, d]`; owns the logarithm of the inverse temperature."""

    def __init__(self, spec: LateInteractionLossSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        self.names = tuple(spec.vectors(inputs))
        self.mean, self.both = spec.reduce == "mean", spec.direction == "both"

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        given = [streams[name] for name in self.names]
        masks = [_mask(stream) for stream in given]
        valid = counted(streams, rows, tokens=None)
        valid = valid & jnp.any(masks[0], axis=1) & jnp.any(masks[1], axis=1)
        asked, there = (mask & valid[:, None] for mask in masks)
        query, item = (
            unit(keep(wide(stream.values), mask))
            for stream, mask in zip(given, (asked, there), strict=True)
        )
        logits = self.inverse(query.dtype) * maxsim(query, item, asked, there, mean=self.mean)
        positive = same_key(streams, valid)
        each = contrast(logits, positive, valid)
        if self.both:
            each = (each + contrast(logits.T, positive, valid)) / 2
        return summed(each, valid)


def maxsim(
    query: Float[Array, "b q d"],
    item: Float[Array, "c t d"],
    asked: Bool[Array, "b q"],
    there: Bool[Array, "c t"],
    *,
    mean: bool,
) -> Float[Array, "b c"]:
    """Of tokens of length one, each query with each item; tokens that are not marked have no part.
    An item without tokens is as unlike as can be."""
    similar = jnp.einsum("bqd,ctd->bcqt", query, item, precision="highest")
    nearest = largest(jnp.where(there[None, :, None], similar, -1.0), axis=3)
    total = jnp.sum(jnp.where(asked[:, None], nearest, 0.0), axis=2)
    return total / jnp.maximum(jnp.sum(asked, axis=1), 1)[:, None] if mean else total


def _mask(stream: Stream) -> Bool[Array, "b n"]:
    mask = stream.mask
    return jnp.ones(stream.values.shape[:2], bool) if mask is None else mask

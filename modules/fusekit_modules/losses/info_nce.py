"""Contrast within the batch."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import LossValue, Rate, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_same, expect_vector
from fusekit_modules.losses._contrast import Contrast, ContrastSpec, computed, directions
from fusekit_modules.losses._count import counted, keep, summed, wide
from fusekit_modules.losses._positives import check_positives
from fusekit_modules.losses._queue import Queue
from fusekit_modules.ops.contrastive import info_nce, soft_info_nce

Size = Annotated[int, Field(ge=0, le=10_000_000)]


@register
class InfoNceSpec(ContrastSpec):
    """Contrast of vectors of one sample with those of the batch (Radford et al. 2021, figure 3).

    For each pair of inputs, the mean of the cross-entropies of both directions, averaged over the
    pairs. Rows that do not count are no negatives either. With `positives`, all rows of one key
    are positives of each other, and a row's target is spread evenly over them.

    `soft` names a teacher's stream for each input. These are then the keys that an input is
    compared with, and the target is (1 - a) times that above plus a times the softmax of the
    teacher's own similarities at the same temperature, without gradient (Li et al. 2021, ALBEF,
    equation 6; a is `soft_weight`). A `queue` adds the keys of so many rows seen before as
    columns, in evaluation too; it is written in training from rows that count, after it was used.
    It holds the streams of `soft`; without these the later input of each pair, and then it is for
    the first direction alone (He et al. 2020, MoCo, where `direction` is `first`).

    Scores are never in memory all at once, except those of few rows.
    """

    type: Literal["info_nce"] = "info_nce"
    positives: Ref | None = Field(None, description="a key: rows of the same key are positives")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="how vectors are compared")
    direction: Literal["both", "first"] = Field(
        "both", description="first: only earlier inputs are told among the rows of later ones"
    )
    soft: tuple[Ref, ...] = Field((), description="a teacher's stream for each input, in order")
    soft_weight: Rate = Field(0.4, description="share of the teacher in the target")
    queue: Size = Field(0, description="how many rows seen before are negatives too")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        pair = {"inputs": ["m0", "m1"]}
        return [pair, {**pair, "learn": False, "queue": 3}, {**pair, "soft": ["m0", "m1"]}]

    def others(self) -> frozenset[str]:
        own = {str(r) for r in self.inputs} if isinstance(self.inputs, tuple) else {*self.inputs}
        return frozenset({"where", "positives", *map(str, self.soft)} - own)

    def check(self, inputs: Signatures) -> None:
        """Vectors of one width, and as many of a teacher. Raises `WiringError` otherwise."""
        super().check(inputs)
        check_positives(inputs)
        vectors = self.vectors(inputs)
        named = self.inputs if isinstance(self.inputs, tuple) else tuple(self.inputs.values())
        if self.soft and len(self.soft) != len(vectors):
            raise WiringError(
                "a teacher's stream is due for each input",
                found=f"{len(self.soft)} for {len(vectors)} inputs",
                expected=len(vectors),
                field=("soft",),
            )
        for index, reference in enumerate(self.soft):
            if not isinstance(self.inputs, tuple) and str(reference) in self.inputs:
                message = "a role of the inputs has the name of a teacher's stream"
                raise WiringError(message, found=reference, field=("soft", index))
            expect_vector(inputs[str(reference)], str(reference), field=("soft", index))
        every = {**vectors, **{str(r): inputs[str(r)] for r in self.soft}}
        expect_same(every, "embed", hint="projections to one width")
        if self.queue and any(reference.many for reference in (*named, *self.soft)):
            raise WiringError(
                "a queue is of one point: the others of a row would be its negatives",
                found=", ".join(str(reference) for reference in named),
                expected="one point an input, or queue: 0",
                field=("queue",),
            )

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "InfoNce":
        return InfoNce(self, inputs, rngs=rngs)


class InfoNce(Contrast):
    """Vectors `[b, d]`; owns the logarithm of the inverse temperature, and a queue."""

    def __init__(self, spec: InfoNceSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        self.similarity, self.direction = spec.similarity, spec.direction
        vectors = spec.vectors(inputs)
        self.names, self.soft = tuple(vectors), tuple(map(str, spec.soft))
        self.share = spec.soft_weight
        self.pairs = tuple(directions(len(vectors), spec.direction))
        queued = {key for query, key in self.pairs if self.soft or query < key}
        self.queued = tuple(sorted(queued)) if spec.queue else ()
        key, width = inputs.get("positives"), vectors[self.names[0]].width
        labels = None if key is None else jnp.int32 if key.dtype == "int" else jnp.float32
        sizes = (len(self.queued), spec.queue, width)
        self.queue = Queue(*sizes, labels=labels) if self.queued else None

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        queries = [self._compared(streams[name], valid, context) for name in self.names]
        taught = [self._compared(streams[name], valid, context) for name in self.soft]
        teachers = [jax.lax.stop_gradient(vectors) for vectors in taught]
        labels = streams["positives"].values if "positives" in streams else None
        scale = self.inverse(queries[0].dtype)
        each = jnp.zeros(valid.shape, scale.dtype)
        for query, key in self.pairs:
            queued = self.queue is not None and (bool(teachers) or query < key)
            if not teachers and self.queue is None and query > key:
                continue  # it came with the other direction, of the same scores
            y, columns, keys = (teachers or queries)[key], valid, dict[str, Any](keys=labels)
            if queued:
                y, columns, keys = self._past(key, y, valid, labels)
            given = (scale, valid, columns)
            if teachers:
                own = (queries[query], y, teachers[query], self.share)
                each = each + soft_info_nce(*own, *given, **keys, context=context)
                continue
            first, second = info_nce(queries[query], y, *given, **keys, context=context)
            both = self.direction == "both" and self.queue is None
            each = each + (first + second if both else first)
        if self.queue is not None and context.training:
            self.queue.push([(teachers or queries)[k] for k in self.queued], labels, valid)
        return summed(each / len(self.pairs), valid)

    def _past(
        self, key: int, y: Float[Array, "b d"], valid: Bool[Array, "b"], labels: Any
    ) -> tuple[Float[Array, "n d"], Bool[Array, "n"], dict[str, Any]]:
        """Columns with those of the queue behind, which of them count, and their keys."""
        assert self.queue is not None
        values, filled, held = self.queue.held(self.queued.index(key))
        y = jnp.concatenate([y, values.astype(y.dtype)])
        columns = jnp.concatenate([valid, filled])
        if held is None or labels is None:
            return y, columns, {}
        labels = labels.astype(held.dtype)
        return y, columns, dict[str, Any](keys=labels, column_keys=jnp.concatenate([labels, held]))

    def _compared(
        self, stream: Stream, valid: Bool[Array, "b"], context: Context
    ) -> Float[Array, "b d"]:
        values = keep(wide(stream.values), valid)
        return computed(unit(values) if self.similarity == "cosine" else values, context)

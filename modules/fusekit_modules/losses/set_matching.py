"""Losses of sets."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.layers.expect import expect_sequence
from fusekit_modules.losses._assignment import assign
from fusekit_modules.losses._boxes import expect_boxes, giou
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._match import differ

Share = Annotated[float, Field(ge=0.0, le=1e6)]


@register
class SetMatchingSpec(LossSpec):
    """A set of predictions against a set of targets, matched at the least cost: DETR (Carion et al.
    2020, eqs. 1-2).

    The cost of a pair is -p(class), plus for boxes `l1` |b - b'|_1 - `giou` GIoU(b, b'). A row adds
    the mean of the cross-entropies of all predictions, the unmatched ones of the class after the
    last with the weight `no_object`, plus the mean over its targets of `l1` |b - b'|_1 + `giou`
    (1 - GIoU). DETR divides box terms by the targets of the batch; here each row counts alike.
    `sigmoid`: no class stands for no object, an unmatched prediction has none of them; binary
    cross-entropies are added up over classes. Padded targets and predictions are not matched.
    """

    type: Literal["set_matching"] = "set_matching"
    prediction: Ref = Field(description="logits of each query, one class more than the target's")
    target: Ref = Field(description="the classes, one a token, padded where there are fewer")
    boxes: Ref | None = Field(None, description="predicted boxes: centre, width, height")
    target_boxes: Ref | None = Field(None, description="target boxes, as many as classes")
    form: Literal["softmax", "sigmoid"] = Field("softmax", description="of the classes")
    no_object: Share = Field(0.1, description="weight of predictions without a target")
    l1: Share = Field(5.0, description="weight of the distance of boxes")
    giou: Share = Field(2.0, description="weight of generalised intersection over union")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = {"prediction": "head", "target": "batch.objects"}
        boxes = {"boxes": "boxes", "target_boxes": "batch.boxes"}
        return [{**names, **boxes}, names, {**names, "form": "sigmoid"}]

    @classmethod
    def example_inputs(cls) -> list[dict[str, str]]:
        """Roles and kinds of streams that fit the examples, which the suite cannot guess."""
        boxes = {"boxes": "boxes", "target_boxes": "boxes"}
        return [
            {"prediction": "token_logits", "target": target, **more}
            for target in ("objects", "token_labels")
            for more in (boxes, {})
        ]

    def check(self, inputs: Signatures) -> None:
        """Logits, classes and boxes that go together. Raises `WiringError` otherwise."""
        prediction, target = inputs["prediction"], inputs["target"]
        expect_sequence(prediction, "prediction", field=("prediction",))
        if target.dtype != "int" or target.axes != ("time",) or target.classes is None:
            raise differ(prediction, target, "it is no set of classes", "a label for each object")
        more = 1 if self.form == "softmax" else 0
        if prediction.width != target.classes + more:
            expected = f"classes: {target.classes + more} on the head"
            raise differ(prediction, target, "numbers of classes", expected)
        if prediction.length < target.length:
            raise differ(prediction, target, "it is larger", f"at least {target.length} queries")
        if (self.boxes is None) != (self.target_boxes is None):
            field = "boxes" if self.boxes is None else "target_boxes"
            raise WiringError("boxes on one side only", expected="both or neither", field=(field,))
        for name, beside in (("boxes", prediction), ("target_boxes", target)):
            if name in inputs:
                expect_boxes(inputs[name], beside, name)
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "SetMatching":
        return SetMatching(self)


class SetMatching(nnx.Module):
    """Logits `[b, n, c]` and classes `[b, m]`; boxes `[b, n, 4]` and `[b, m, 4]`."""

    def __init__(self, spec: SetMatchingSpec):
        self.form, self.no_object = spec.form, spec.no_object
        self.l1, self.giou = spec.l1, spec.giou

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        asked = valid[:, None] & _mask(streams, "prediction", "boxes")
        wanted = valid[:, None] & _mask(streams, "target", "target_boxes")
        logits = keep(wide(streams["prediction"].values), asked)
        classes = keep(streams["target"].values, wanted)
        shares = jax.nn.softmax(logits) if self.form == "softmax" else jax.nn.sigmoid(logits)
        cost = -_at(jnp.swapaxes(shares, 1, 2), classes)
        boxed, pairs = "boxes" in streams, None
        if boxed:
            boxes = keep(wide(streams["boxes"].values), asked)
            targets = keep(streams["target_boxes"].values.astype(boxes.dtype), wanted)
            cost = cost + self._apart(targets[:, :, None], boxes[:, None]) - self.giou
            pairs = boxes, targets
        chosen = assign(cost, wanted, asked)
        found = chosen >= 0
        total = self._classes(logits, classes, chosen, asked)
        if pairs is not None:
            boxes, targets = pairs
            mine = keep(_at(boxes, jnp.maximum(chosen, 0)), found)
            each = self._apart(keep(targets, found), mine)
            count = jnp.maximum(jnp.sum(found, axis=1), 1)
            total = total + jnp.sum(keep(each, found), axis=1) / count
        return summed(total, valid)

    def _apart(self, a: Float[Array, "*b 4"], b: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
        return self.l1 * jnp.sum(jnp.abs(a - b), axis=-1) + self.giou * (1 - giou(a, b))

    def _classes(
        self,
        logits: Float[Array, "b n c"],
        classes: Int[Array, "b m"],
        chosen: Int[Array, "b m"],
        asked: Bool[Array, "b n"],
    ) -> Float[Array, "b"]:
        """The weighted mean over predictions."""
        count, width = logits.shape[1:]
        hit = chosen[:, :, None] == jnp.arange(count)
        matched = jnp.any(hit, axis=1)
        label = jnp.sum(jnp.where(hit, classes[:, :, None], 0), axis=1)
        target = jax.nn.one_hot(jnp.where(matched, label, width - 1), width, dtype=logits.dtype)
        if self.form == "softmax":
            each = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
        else:
            target = target * matched[..., None]
            each = jnp.sum(jax.nn.softplus(logits) - target * logits, axis=-1)
        weight = keep(jnp.where(matched, 1.0, self.no_object).astype(each.dtype), asked)
        mass = jnp.sum(weight, axis=1)
        return jnp.sum(weight * each, axis=1) / jnp.where(mass > 0, mass, 1)


def _mask(streams: dict[str, Stream], *roles: str) -> Bool[Array, "b n"]:
    """Where all of these are valid."""
    found = jnp.ones(streams[roles[0]].values.shape[:2], bool)
    for role in roles:
        mask = streams[role].mask if role in streams else None
        found = found if mask is None else found & mask
    return found


def _at(values: Array, index: Int[Array, "b m"]) -> Array:
    """Row by row, the entries of axis 1 with these numbers."""
    return jax.vmap(lambda v, i: jnp.take(v, i, axis=0, mode="clip"))(values, index)

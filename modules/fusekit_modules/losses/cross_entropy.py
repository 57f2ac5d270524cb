"""Cross-entropy over classes."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Positive, Rate, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.deferred import Deferred
from fusekit.errors import WiringError
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._match import check_classes, holds_logits, positions
from fusekit_modules.losses._teacher import check_teacher, soft_surprise
from fusekit_modules.ops.linear_cross_entropy import Linear, able, linear_cross_entropy
from fusekit_modules.ops.rule import chosen, target_of

Class = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1e6)]


@register
class CrossEntropySpec(LossSpec):
    """Cross-entropy of logits and classes, of samples, of each token or of a grid's positions.

    With smoothing s (Szegedy et al. 2016, section 7) and class weights w, a row of class y adds
    (1 - s) w_y (-log p_y) + (s / C) sum_c w_c (-log p_c), and w_y to the weight by which the sum is
    divided. Positions that are padded, or not in `where`, do not count.

    `soft` names a teacher's logits z: a row then adds 1 - a times the above and a times
    T^2 sum_c q_c (-log p_c), with q and p the softmaxes of the teacher's and of its own logits
    divided by the temperature T, without gradient for the teacher (Hinton et al. 2015, section 2;
    with T = 1 as in ALBEF, Li et al. 2021, equation 7; a is `soft_weight`).
    """

    type: Literal["cross_entropy"] = "cross_entropy"
    prediction: Ref = Field(description="logits: a vector, or a sequence or grid of them")
    target: Ref | Class = Field(description="the classes, or one class for every row")
    smoothing: Share = Field(0.0, description="share of the target spread over all classes")
    class_weights: tuple[Weight, ...] = Field((), description="one a class; default all one")
    soft: Ref | None = Field(None, description="a teacher's logits, of the same shape")
    soft_weight: Rate = Field(0.4, description="share of the teacher in the target")
    temperature: Positive = Field(1.0, description="what logits are divided by for the teacher")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = {"prediction": "head", "target": "batch.label"}
        return [names, {**names, "smoothing": 0.1}, {"prediction": "head", "target": 1}]

    def fuses(self) -> frozenset[str]:
        """Of a teacher's logits the softmax is taken beside its own, so that both are made."""
        return frozenset() if self.soft is not None else frozenset({"prediction"})

    def check(self, inputs: Signatures) -> None:
        """Logits, and as many classes. Raises `WiringError` otherwise."""
        prediction = inputs["prediction"]
        if not holds_logits(prediction):
            raise WiringError(
                "the prediction holds no logits of classes",
                found=prediction,
                expected="a head such as classifier, token_classifier or dense",
                field=("prediction",),
            )
        classes = prediction.width
        if self.class_weights and len(self.class_weights) != classes:
            raise WiringError(
                "one weight a class is due",
                found=len(self.class_weights),
                expected=classes,
                field=("class_weights",),
            )
        if isinstance(self.target, int):
            if self.target >= classes:
                raise WiringError(
                    "there is no such class",
                    found=self.target,
                    expected=f"a class from 0 to {classes - 1}",
                    field=("target",),
                )
        else:
            check_classes(prediction, inputs["target"])
        check_where(inputs, positions(prediction))
        if self.soft is not None:
            check_teacher(prediction, inputs["soft"], ("soft",))
            if self.class_weights:
                raise WiringError(
                    "class weights are of classes that hold, and a teacher names none",
                    found=f"class_weights and soft: {self.soft}",
                    expected="one of them",
                    field=("class_weights",),
                )

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "CrossEntropy":
        return CrossEntropy(self)


class CrossEntropy(nnx.Module):
    """Logits `[b, *n, c]` and classes `[b, *n]`, of rows, tokens or a grid's positions."""

    def __init__(self, spec: CrossEntropySpec):
        self.constant = spec.target if isinstance(spec.target, int) else None
        self.smoothing, self.class_weights = spec.smoothing, spec.class_weights
        self.share, self.temperature = spec.soft_weight, spec.temperature

    def __call__(self, streams: dict[str, Any], *, rows: Any, context: Context) -> LossValue:
        prediction = streams["prediction"]
        if isinstance(prediction, Deferred):
            return self._fused(prediction, streams, rows, context)
        logits = prediction.values
        valid = counted(streams, rows, tokens=logits.shape[1:-1] or None)
        target = self._target(streams, valid)
        logits = keep(wide(logits), valid)
        surprise = -jax.nn.log_softmax(logits, axis=-1)
        of_target = jnp.take_along_axis(surprise, target[..., None], axis=-1)[..., 0]
        if not self.class_weights:
            smooth = (1 - self.smoothing) * of_target + self.smoothing * jnp.mean(surprise, axis=-1)
            each = smooth if self.smoothing else of_target
            if "soft" in streams:
                teacher = keep(streams["soft"].values.astype(logits.dtype), valid)
                soft = soft_surprise(logits, teacher, self.temperature)
                each = (1 - self.share) * each + self.share * soft
            return summed(each, valid)
        weights = jnp.asarray(self.class_weights, surprise.dtype)
        weight = weights[target]
        spread = jnp.mean(weights * surprise, axis=-1)
        each = (1 - self.smoothing) * weight * of_target + self.smoothing * spread
        return summed(each, valid, weight)

    def _target(self, streams: dict[str, Any], valid: Any) -> Any:
        if self.constant is None:
            return keep(streams["target"].values, valid)
        return jnp.full(valid.shape, self.constant, jnp.int32)

    def _fused(
        self, given: Deferred, streams: dict[str, Any], rows: Any, context: Context
    ) -> LossValue:
        """The same of logits that are never made."""
        features = given.features.values
        valid = counted(streams, rows, tokens=features.shape[1:-1] or None)
        target = self._target(streams, valid)
        weights = jnp.asarray(self.class_weights, jnp.float32) if self.class_weights else None
        where: Any = {
            "place": target_of(context),
            "layout": context.layout and context.layout.of_node(given.node),
            "axes": given.axes,
        }
        # what the head asks for, as the product is its own
        head = replace(context.at(given.node), kernel=given.asked, named=given.named)
        linear = Linear(features, given.kernel, given.bias)
        weighed = bool(self.smoothing or self.class_weights)
        choice = chosen(
            head,
            "linear cross-entropy",
            able(linear, **where, weighed=weighed),
            doubts={"tokamax": lambda: "its numbers were never seen"},
            shapes=(features, given.kernel),
        )
        options: Any = {"smoothing": self.smoothing, "class_weights": weights, **where}
        each = linear_cross_entropy(*linear, target, valid, **options, backend=choice.backend)
        return summed(each, valid, None if weights is None else weights[target])

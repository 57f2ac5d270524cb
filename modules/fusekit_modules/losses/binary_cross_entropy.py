"""Cross-entropy of labels each of which may hold or not."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Positive, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._match import differ
from fusekit_modules.losses.cross_entropy import Share

Chance = Annotated[float, Field(ge=0.0, le=1.0)]


@register
class BinaryCrossEntropySpec(LossSpec):
    """Cross-entropy of logits z and labels y between 0 and 1, averaged over the labels.

    A label adds w y softplus(-z) + (1 - y) softplus(z), with w its positive weight. Smoothing s
    moves y to (1 - s) y + s / 2. Serves a discriminator with a constant target.
    """

    type: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    prediction: Ref = Field(description="logits: a vector, one a label")
    target: Ref | Chance = Field(description="the labels, or one value for all of them")
    smoothing: Share = Field(0.0, description="share of the target moved to one half")
    positive_weight: Positive | tuple[Positive, ...] = Field(
        1.0, description="weight of labels that hold: one number, or one a label"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = {"prediction": "head", "target": "batch.labels"}
        return [names, {**names, "smoothing": 0.1}, {"prediction": "head", "target": 0}]

    def check(self, inputs: Signatures) -> None:
        """Logits, and as many labels. Raises `WiringError` otherwise."""
        prediction = inputs["prediction"]
        if prediction.kind != "vector":
            raise WiringError(
                "the prediction is no vector of logits",
                found=prediction,
                expected="a head such as multilabel",
                field=("prediction",),
            )
        if (
            isinstance(self.positive_weight, tuple)
            and len(self.positive_weight) != prediction.width
        ):
            raise WiringError(
                "one weight a label is due",
                found=len(self.positive_weight),
                expected=prediction.width,
                field=("positive_weight",),
            )
        check_where(inputs, None)
        if "target" not in inputs:
            return
        target = inputs["target"]
        if target.kind == "scalar" and prediction.width == 1 and target.classes in (None, 2):
            return
        if target.kind != "vector" or target.width != prediction.width:
            expected = f"a vector of {prediction.width} labels"
            raise differ(prediction, target, "numbers of labels", expected)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "BinaryCrossEntropy":
        return BinaryCrossEntropy(self)


class BinaryCrossEntropy(nnx.Module):
    """Logits `[b, n]`, and labels `[b, n]` or, for n = 1, `[b]`."""

    def __init__(self, spec: BinaryCrossEntropySpec):
        self.constant = spec.target if isinstance(spec.target, int | float) else None
        self.smoothing, self.positive_weight = spec.smoothing, spec.positive_weight

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        logits = keep(wide(streams["prediction"].values), valid)
        if self.constant is None:
            target = keep(streams["target"].values.astype(logits.dtype), valid)
            target = target.reshape(logits.shape)
        else:
            target = jnp.full_like(logits, self.constant)
        target = (1 - self.smoothing) * target + self.smoothing / 2
        positive = jnp.asarray(self.positive_weight, logits.dtype) * target
        each = positive * jax.nn.softplus(-logits) + (1 - target) * jax.nn.softplus(logits)
        return summed(jnp.mean(each, axis=-1), valid)

"""Agreement with a teacher's logits."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Positive, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._match import holds_logits, positions
from fusekit_modules.losses._teacher import check_teacher, entropy, soft_surprise


@register
class DistillationSpec(LossSpec):
    """T^2 KL(q || p) of a teacher's classes q and the predicted p, both softmaxes of logits over
    the temperature T (Hinton et al. 2015, section 2).

    Zero where they agree, and without gradient for the teacher. It needs no labels: beside labels,
    `cross_entropy` has `soft`. Positions that are padded, or not in `where`, do not count.
    """

    type: Literal["distillation"] = "distillation"
    prediction: Ref = Field(description="logits: a vector, or a sequence or grid of them")
    target: Ref = Field(description="the teacher's logits, of the same shape")
    temperature: Positive = Field(1.0, description="what both logits are divided by")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = {"prediction": "head", "target": "teacher.head"}
        return [names, {**names, "temperature": 2.0}]

    def check(self, inputs: Signatures) -> None:
        """Logits, twice of one shape. Raises `WiringError` otherwise."""
        prediction = inputs["prediction"]
        if not holds_logits(prediction) or prediction.width < 2:
            raise WiringError(
                "the prediction holds no logits of classes",
                found=prediction,
                expected="a head such as classifier, token_classifier or dense",
                field=("prediction",),
            )
        check_teacher(prediction, inputs["target"], ("target",))
        check_where(inputs, positions(prediction))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Distillation":
        return Distillation(self)


class Distillation(nnx.Module):
    """Logits `[b, *n, c]`, twice."""

    def __init__(self, spec: DistillationSpec):
        self.temperature = spec.temperature

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        values = streams["prediction"].values
        valid = counted(streams, rows, tokens=values.shape[1:-1] or None)
        logits = keep(wide(values), valid)
        teacher = keep(streams["target"].values.astype(logits.dtype), valid)
        each = soft_surprise(logits, teacher, self.temperature)
        return summed(each - entropy(teacher, self.temperature), valid)

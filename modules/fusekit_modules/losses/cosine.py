"""Distance of directions."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._match import differ, positions


@register
class CosineSpec(LossSpec):
    """One minus the cosine of prediction and target, of samples or of each token.

    A vector of zeros is at a right angle to all. Positions that are padded, or not in `where`, do
    not count.
    """

    type: Literal["cosine"] = "cosine"
    prediction: Ref = Field(description="vectors, or a sequence of them")
    target: Ref = Field(description="what they should point to, of the same shape")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"prediction": "head", "target": "teacher.head"}]

    def check(self, inputs: Signatures) -> None:
        """Vectors or sequences of features, of one shape. Raises `WiringError` otherwise."""
        prediction, target = inputs["prediction"], inputs["target"]
        for role, given in (("prediction", prediction), ("target", target)):
            if given.dtype != "float" or given.axes[-1:] != ("embed",):
                raise WiringError(
                    f"the {role} holds no vectors",
                    found=given,
                    expected="a vector, or a sequence of features",
                    field=(role,),
                )
        if prediction.shape != target.shape:
            raise differ(prediction, target, "shapes", f"shape {prediction.shape}")
        check_where(inputs, positions(prediction))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Cosine":
        return Cosine()


class Cosine(nnx.Module):
    """Values `[b, d]` or `[b, t, d]`, twice."""

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        values = streams["prediction"].values
        valid = counted(streams, rows, tokens=values.shape[1:-1] or None)
        prediction = unit(keep(wide(values), valid))
        target = unit(keep(streams["target"].values.astype(prediction.dtype), valid))
        return summed(1 - jnp.sum(prediction * target, axis=-1), valid)

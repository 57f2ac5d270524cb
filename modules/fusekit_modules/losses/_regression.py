"""What the losses of regression share."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Signatures
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._match import differ

Penalty = Callable[[Float[Array, "*n"]], Float[Array, "*n"]]


class RegressionSpec(LossSpec):
    """A penalty on the difference of prediction and target, averaged over their features.

    Of sequences, and of grids whose frames are padded, each valid position counts once; else each
    row does.
    """

    prediction: Ref = Field(description="what is predicted")
    target: Ref = Field(description="what it should be, of the same shape")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"prediction": "head", "target": "batch.number"}]

    def penalty(self, difference: Float[Array, "*n"]) -> Float[Array, "*n"]:
        raise NotImplementedError

    def check(self, inputs: Signatures) -> None:
        """Real numbers of one shape. Raises `WiringError` otherwise."""
        prediction, target = inputs["prediction"], inputs["target"]
        for role, given in (("prediction", prediction), ("target", target)):
            if given.dtype != "float" or given.kind == "table":
                raise WiringError(
                    f"the {role} holds no real numbers",
                    found=given,
                    expected="numbers, vectors, sequences or grids of real numbers",
                    field=(role,),
                )
        if _shape(prediction) != _shape(target):
            shape = _shape(prediction)
            raise differ(prediction, target, "shapes", f"shape {shape}" if shape else "a number")
        check_where(inputs, _positions(inputs))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Regression":
        return Regression(self.penalty, _positions(inputs))


def _shape(signature: Signature) -> tuple[int, ...]:
    """A vector of one number is as good as a scalar."""
    return () if signature.shape == (1,) else signature.shape


def _positions(inputs: Signatures) -> int | None:
    """How many positions count singly; `None` where rows do."""
    prediction, target = inputs["prediction"], inputs["target"]
    if prediction.kind == "sequence" or prediction.padded or target.padded:
        return prediction.shape[0]
    return None


class Regression(nnx.Module):
    """Values `[b, ...]` and `[b, ...]`."""

    def __init__(self, penalty: Penalty, positions: int | None):
        self.penalty, self.positions = penalty, positions

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=self.positions)
        prediction = keep(wide(streams["prediction"].values), valid)
        target = keep(streams["target"].values.astype(prediction.dtype), valid)
        each = self.penalty(prediction - self.wanted(target).reshape(prediction.shape))
        axes = tuple(range(valid.ndim, each.ndim))
        return summed(jnp.mean(each, axis=axes) if axes else each, valid)

    def wanted(self, target: Float[Array, "b *n"]) -> Float[Array, "b *n"]:
        """What is to be predicted, of a target that is zero where it does not count."""
        return target

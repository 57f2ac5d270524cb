"""A loss weighted by a learned uncertainty."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import LossValue, Signatures, register
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.losses._wrapper import WrapperSpec

PARTS = {"gaussian": 0.5, "softmax": 1.0}


@register
class UncertaintySpec(WrapperSpec):
    """A loss L with a learned log-variance s of its own: k exp(-s) L + s / 2 (Kendall et al. 2018).

    k is 1/2 for the squared error of a Gaussian (equation 7) and 1 for the cross-entropy of a
    softmax (equation 10). Several losses weight each other if each is wrapped so, since the
    objective is their sum. It may be negative. Where no row counts it is zero, and s stays.
    """

    type: Literal["uncertainty"] = "uncertainty"
    likelihood: Literal["gaussian", "softmax"] = Field(
        "gaussian", description="of what the loss is minus the logarithm"
    )
    log_variance: float = Field(0.0, ge=-20, le=20, description="s at first")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        inner = {"type": "info_nce", "inputs": ["m0", "m1"]}
        return [{"loss": inner}, {"loss": inner, "likelihood": "softmax", "log_variance": 0.5}]

    def fuses(self) -> frozenset[str]:
        return self.loss.fuses()

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Uncertainty":
        return Uncertainty(self, inputs, rngs=rngs)


class Uncertainty(nnx.Module):
    """Owns the log-variance, and what the loss within owns."""

    def __init__(self, spec: UncertaintySpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.part = PARTS[spec.likelihood]
        self.log_variance = parameter(rngs, nnx.initializers.constant(spec.log_variance), (), ())
        self.inner = spec.loss.build(inputs, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        given = self.inner(streams, rows=rows, context=context)  # pyright: ignore[reportCallIssue]
        s = self.log_variance[...].astype(given.total.dtype)
        total = self.part * jnp.exp(-s) * given.total + 0.5 * s * given.weight
        return LossValue(total, given.weight)

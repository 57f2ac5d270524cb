"""Contrast within the batch."""

import itertools
import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Coupling, LossSpec, LossValue, Positive, Signatures, register
from fusekit.config.reference import Ref, Refs
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide


@register
class InfoNceSpec(LossSpec):
    """Contrast of vectors of one sample with those of the batch (Radford et al. 2021, figure 3).

    For each pair of inputs, the mean of the cross-entropies of both directions, averaged over the
    pairs. Rows that do not count are no negatives either. With `positives`, all rows of one key
    are positives of each other, and a row's target is spread evenly over them.
    """

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "the other rows of the batch are the negatives"

    type: Literal["info_nce"] = "info_nce"
    inputs: Refs = Field(description="two or more vectors of one width")
    positives: Ref | None = Field(None, description="a key: rows of the same key are positives")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="how vectors are compared")
    temperature: Positive = Field(0.07, description="what similarities are divided by, at first")
    learn: bool = Field(True, description="whether the temperature is a parameter")
    least: Positive = Field(0.01, description="the temperature is not taken below this")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"inputs": ["a", "b"]}, {"inputs": ["a", "b"], "learn": False}]

    def check(self, inputs: Signatures) -> None:
        """Vectors of one width. Raises `WiringError` otherwise."""
        vectors = {k: v for k, v in inputs.items() if k not in ("positives", "where")}
        expect_count(vectors, least=2)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        if "positives" in inputs and inputs["positives"].kind != "scalar":
            raise WiringError(
                "positives is no key",
                found=inputs["positives"],
                expected="a scalar, such as a label",
                field=("positives",),
            )
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "InfoNce":
        return InfoNce(self, rngs=rngs)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Float[Array, ""], bound: float) -> Float[Array, ""]:
    """`min(x, bound)` whose gradient, beyond the bound, is kept where a step against it leads back.

    So a parameter that a step took too far does not stay there for good, as it does where it is not
    itself clamped after every step (Radford et al. 2021, section 2.5).
    """
    return jnp.minimum(x, bound)


def _at_most_forward(x: Array, bound: float) -> tuple[Array, Array]:
    return jnp.minimum(x, bound), x > bound


def _at_most_backward(bound: float, beyond: Array, grad: Array) -> tuple[Array]:
    return (jnp.where(beyond & (grad < 0), jnp.zeros_like(grad), grad),)


at_most.defvjp(_at_most_forward, _at_most_backward)


class InfoNce(nnx.Module):
    """Vectors `[b, d]`; owns the logarithm of the inverse temperature."""

    def __init__(self, spec: InfoNceSpec, *, rngs: nnx.Rngs):
        self.similarity, self.most = spec.similarity, -math.log(spec.least)
        self.first = -math.log(spec.temperature)
        init = nnx.initializers.constant(self.first)
        self.scale = parameter(rngs, init, (), ()) if spec.learn else None

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        vectors = [
            keep(wide(stream.values), valid)
            for role, stream in streams.items()
            if role not in ("positives", "where")
        ]
        if self.similarity == "cosine":
            vectors = [unit(v) for v in vectors]
        dtype = vectors[0].dtype
        log_scale = self.first if self.scale is None else self.scale[...]
        scale = jnp.exp(at_most(jnp.asarray(log_scale, dtype), self.most))
        positive = self._positive(streams, valid)
        pairs = list(itertools.combinations(vectors, 2))
        each = jnp.zeros(valid.shape, dtype)
        for a, b in pairs:
            logits = scale * (a @ b.T)
            both = contrast(logits, positive, valid) + contrast(logits.T, positive, valid)
            each = each + both / (2 * len(pairs))
        return summed(each, valid)

    @staticmethod
    def _positive(streams: dict[str, Stream], valid: Bool[Array, "b"]) -> Bool[Array, "b b"]:
        if "positives" not in streams:
            return jnp.eye(valid.shape[0], dtype=bool)
        key = streams["positives"].values
        return (key[:, None] == key[None]) & valid[:, None] & valid[None]


def contrast(
    logits: Float[Array, "b b"], positive: Bool[Array, "b b"], valid: Bool[Array, "b"]
) -> Float[Array, "b"]:
    """By row, minus the mean over its positives of the log-softmax over the columns that count;
    zero in rows that do not."""
    wanted = valid[:, None] & valid[None]
    lowest = jnp.finfo(logits.dtype).min
    total = jax.nn.logsumexp(jnp.where(wanted, logits, lowest), axis=1, keepdims=True)
    total = keep(total, valid)
    share = (positive & wanted).astype(logits.dtype)
    share = share / jnp.maximum(jnp.sum(share, axis=1, keepdims=True), 1)
    return jnp.sum(share * (total - logits), axis=1)

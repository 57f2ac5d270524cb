"""Contrast of pairs, each by itself."""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import LossValue, Positive, Signatures, register
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.losses._contrast import Contrast, ContrastSpec, computed, units
from fusekit_modules.losses._count import counted, summed
from fusekit_modules.ops.contrastive import siglip


@register
class SiglipSpec(ContrastSpec):
    """Whether two vectors are of one sample, asked of each pair (Zhai et al. 2023, algorithm 1).

    With l = cosine / temperature + bias, a row adds -log sigmoid(l) of its own pair and
    -log sigmoid(-l) of its pairs with the other rows that count; rows are averaged.
    """

    couples_because: ClassVar[str] = "pairs with the other rows of the batch are the negatives"
    most: ClassVar[int | None] = 2

    type: Literal["siglip"] = "siglip"
    temperature: Positive = Field(0.1, description="what cosines are divided by, at first")
    bias: float = Field(-10.0, description="what is added to the logits, at first")
    learn: bool = Field(True, description="whether temperature and bias are parameters")

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Siglip":
        return Siglip(self, rngs=rngs)


class Siglip(Contrast):
    """Vectors `[b, d]` and `[b, d]`; owns the logarithm of the inverse temperature and the bias."""

    def __init__(self, spec: SiglipSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        self.offset = spec.bias
        init = nnx.initializers.constant(spec.bias)
        self.bias = parameter(rngs, init, (), ()) if spec.learn else None

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        a, b = (computed(vectors, context) for vectors in units(streams, valid))
        scale = self.inverse(a.dtype)
        bias = jnp.asarray(self.offset if self.bias is None else self.bias[...], scale.dtype)
        return summed(siglip(a, b, scale, bias, valid, context=context), valid)

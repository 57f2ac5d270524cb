"""Contrast of three or more vectors at once."""

import math
from functools import reduce
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import LossValue, Signatures, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.losses._contrast import Contrast, ContrastSpec, units
from fusekit_modules.losses._count import counted, keep, summed

Negatives = Literal["all", "samples"]


@register
class SymileSpec(ContrastSpec):
    """Contrast of the multilinear inner products sum_d x_d y_d z_d ... (Saporta et al. 2024).

    Each input in turn is the anchor: minus the log-softmax of its row's product over products with
    the others' rows, averaged over anchors. `all` takes every combination of the others' rows, so
    that b rows and m inputs cost b^m numbers; `samples` only those of one row, so b^2, which asks
    whether the anchor goes with the others and not whether these go with each other.
    """

    fewest: ClassVar[int] = 3

    type: Literal["symile"] = "symile"
    negatives: Negatives = Field("all", description="what a row is told from")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = ["a", "b", "c"]
        return [{"inputs": names}, {"inputs": names, "negatives": "samples", "learn": False}]

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Symile":
        return Symile(self, rngs=rngs)


class Symile(Contrast):
    """Vectors `[b, d]`, m of them; owns the logarithm of the inverse temperature."""

    def __init__(self, spec: SymileSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        self.negatives: Negatives = spec.negatives

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        vectors = units(streams, valid)
        scale = self.inverse(vectors[0].dtype)
        own = scale * jnp.sum(math.prod(vectors[1:], start=vectors[0]), axis=1)
        each = jnp.zeros_like(own)
        for index, anchor in enumerate(vectors):
            others = vectors[:index] + vectors[index + 1 :]
            columns, wanted = self._columns(others, valid)
            logits = jnp.where(wanted, scale * (anchor @ columns.T), jnp.finfo(own.dtype).min)
            total = jax.nn.logsumexp(logits, axis=1)
            each = each + keep(total - own, valid) / len(vectors)
        return summed(each, valid)

    def _columns(
        self, others: list[Float[Array, "b d"]], valid: Bool[Array, "b"]
    ) -> tuple[Float[Array, "n d"], Bool[Array, "n"]]:
        """Products of the others' rows, and which of them count."""
        if self.negatives == "samples":
            return math.prod(others[1:], start=others[0]), valid
        wanted = reduce(lambda a, b: (a[:, None] & b).reshape(-1), [valid] * len(others))
        columns = reduce(lambda a, b: (a[:, None] * b).reshape(-1, b.shape[1]), others)
        return columns, wanted

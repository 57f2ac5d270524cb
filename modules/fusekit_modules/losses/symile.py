"""Contrast of three or more vectors at once."""

from typing import Any, ClassVar, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import LossValue, Signatures, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.losses._contrast import Contrast, ContrastSpec, computed, units
from fusekit_modules.losses._count import counted, summed
from fusekit_modules.ops.contrastive import symile

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
        vectors = [computed(one, context) for one in units(streams, valid)]
        options: Any = {"negatives": self.negatives, "context": context}
        return summed(symile(vectors, self.inverse(vectors[0].dtype), valid, **options), valid)

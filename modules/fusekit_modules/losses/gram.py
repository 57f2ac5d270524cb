"""Contrast of volumes."""

from typing import Any, ClassVar, Literal

from flax import nnx

from fusekit.component import LossValue, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.losses._contrast import Contrast, ContrastSpec, units
from fusekit_modules.losses._count import counted, summed
from fusekit_modules.ops.contrastive import gram


@register
class GramSpec(ContrastSpec):
    """Contrast of the volumes that unit vectors span (Cicchetti et al. 2025).

    The first input is the anchor. With V_ij the volume spanned by the anchor of row i and the other
    inputs of row j, the mean of the cross-entropies of -V / temperature over j and over i. Two
    vectors span the sine of their angle, so opposite ones count as aligned.
    """

    couples_because: ClassVar[str] = "volumes with the other rows of the batch are the negatives"

    type: Literal["gram"] = "gram"

    def check(self, inputs: Signatures) -> None:
        """Vectors of one width, of at least as many features. Raises `WiringError` otherwise."""
        super().check(inputs)
        count = len(inputs) - ("where" in inputs)
        width = next(given.width for role, given in inputs.items() if role != "where")
        if width < count:
            raise WiringError(
                "so many vectors of so few features always span nothing",
                found=f"{count} vectors of width {width}",
                expected=f"a width of {count} or more",
                field=("inputs",),
            )

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Gram":
        return Gram(self, rngs=rngs)


class Gram(Contrast):
    """Vectors `[b, d]`, two or more; owns the logarithm of the inverse temperature.

    They are of float32 also where the model computes in bfloat16: a height is a difference of
    squares, and of rounded vectors small volumes would be of rounding errors (docs/kernels.md).
    """

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        anchor, *others = units(streams, valid)
        scale = self.inverse(anchor.dtype)
        by_row, by_column = gram(anchor, others, scale, valid, context=context)
        return summed((by_row + by_column) / 2, valid)

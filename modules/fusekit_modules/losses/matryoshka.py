"""A loss at prefixes of the width."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import LossValue, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.losses._wrapper import WrapperSpec

Share = Annotated[float, Field(ge=0.0, le=1e6)]


@register
class MatryoshkaSpec(WrapperSpec):
    """sum_m c_m L(the first m features), over widths m (Kusupati et al. 2022, equation 1).

    All vectors and sequences of features that the loss within reads are cut, so it is for losses
    that compare them, such as `info_nce`, and none of logits. It is built once a width: a
    temperature or a queue is of one width.
    """

    type: Literal["matryoshka"] = "matryoshka"
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = Field(
        description="how many features, ascending"
    )
    weights: tuple[Share, ...] = Field((), description="c_m, one a width; default all one")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        inner = {"type": "info_nce", "inputs": ["m0", "m1"]}
        return [{"loss": inner, "widths": [4, 8]}]

    def check(self, inputs: Signatures) -> None:
        """Features of the largest width at least, and what the loss within asks for at each.
        Raises `WiringError` otherwise."""
        super().check(inputs)
        if any(b <= a for a, b in pairwise(self.widths)):
            raise WiringError("widths do not ascend", found=self.widths, field=("widths",))
        if self.weights and len(self.weights) != len(self.widths):
            raise WiringError(
                "one weight a width is due",
                found=len(self.weights),
                expected=len(self.widths),
                field=("weights",),
            )
        widths = {role: given.width for role, given in inputs.items() if has_features(given)}
        if not widths or min(widths.values()) < self.widths[-1]:
            raise WiringError(
                "nothing has so many features" if not widths else "an input has fewer features",
                found=", ".join(f"{role} {width}" for role, width in widths.items()),
                expected=f"features of width {self.widths[-1]} or more",
                field=("widths",),
            )
        for width in self.widths:
            self.within(cut_signatures(inputs, width))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Matryoshka":
        return Matryoshka(self, inputs, rngs=rngs)


def has_features(signature: Signature) -> bool:
    """Whether it is cut: vectors, and sequences of them."""
    return signature.dtype == "float" and signature.axes[-1:] == ("embed",)


def cut_signatures(inputs: Signatures, width: int) -> dict[str, Signature]:
    """The inputs with the first features only."""
    return {
        role: s.with_(sizes=(*s.sizes[:-1], ("embed", width)), names=()) if has_features(s) else s
        for role, s in inputs.items()
    }


class Matryoshka(nnx.Module):
    """Owns what the losses within own, one a width."""

    def __init__(self, spec: MatryoshkaSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.widths = spec.widths
        self.weights = spec.weights or (1.0,) * len(spec.widths)
        self.cut = frozenset(role for role, given in inputs.items() if has_features(given))
        self.inner = nnx.List(
            [spec.loss.build(cut_signatures(inputs, width), rngs=rngs) for width in spec.widths]
        )

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        each: list[LossValue] = []
        for width, inner in zip(self.widths, self.inner, strict=True):
            given = {
                role: s.with_(values=s.values[..., :width]) if role in self.cut else s
                for role, s in streams.items()
            }
            each.append(inner(given, rows=rows, context=context))
        parts = [c * value.total for c, value in zip(self.weights, each, strict=True)]
        return LossValue(sum(parts[1:], parts[0]), each[0].weight)

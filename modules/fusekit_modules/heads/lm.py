"""Words."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit.context import Context
from fusekit.deferred import Deferred
from fusekit.stream import Stream
from fusekit_modules.heads._readout import TokenReadoutSpec
from fusekit_modules.heads._tokens import data_tokens
from fusekit_modules.heads._unmade import unmade
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.linear import KERNEL, Linear
from fusekit_modules.layers.norm import LayerNorm

AXES = ("embed", "vocab")
"""Of the last kernel."""


@register
class LmSpec(TokenReadoutSpec):
    """Logits over a vocabulary for each token: a sequence `[time, vocab]`.

    With `hidden` there is a layer with an activation and a layer norm before (Devlin et al. 2019).
    The vocabulary may be split over devices (axis `vocab`). Learned readout tokens get none.
    Where only losses such as `cross_entropy` read them in a step, logits of many tokens over a
    large vocabulary are never made.
    """

    link = "softmax"
    defers = True
    type: Literal["lm"] = "lm"
    vocab: Width = Field(description="how many tokens there are")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x", "vocab": 7}, {"input": "x", "vocab": 3, "hidden": 5, "bias": False}]

    def out_width(self) -> int:
        return self.vocab

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Lm":  # pyright: ignore
        return Lm(self, inputs["input"].width, rngs=rngs)


class Lm(nnx.Module):
    """`[b, t, d] -> [b, t', vocab]` for the t' tokens that are data."""

    def __init__(self, spec: LmSpec, width: int, *, rngs: nnx.Rngs):
        self.activation: ActivationName = spec.activation
        self.rate, hidden = spec.dropout, spec.hidden
        self.hidden = Linear(width, hidden, axes=("embed", None), rngs=rngs) if hidden else None
        self.norm = LayerNorm(hidden, rngs=rngs) if hidden else None
        init = nnx.initializers.zeros if spec.init == "zeros" else KERNEL
        sizes = hidden or width, spec.vocab
        self.out = Linear(*sizes, axes=AXES, bias=spec.bias, init=init, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        features = self._features(streams["input"], context)
        return features.with_(values=self.out(features.values)).clean()

    def deferred(self, streams: dict[str, Stream], *, context: Context) -> Stream | Deferred:
        """The logits, or what they are made of where there are many."""
        return unmade(self.out, AXES, self._features(streams["input"], context), context)

    def _features(self, given: Stream, context: Context) -> Stream:
        given = data_tokens(given).clean()
        x = given.values
        if self.hidden is not None and self.norm is not None:
            x = self.norm(activation(self.activation)(self.hidden(x)))
        return given.with_(values=dropout(x, self.rate, context=context))

"""Recurrent networks over a sequence."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Depth, Rate, Signatures, StackSpec, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.graph.select import pool_first, pool_last
from fusekit.layered import Edits, LayerOutput
from fusekit.stream import Signature, Span, Stream, concatenate
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.edits import refuse
from fusekit_modules.layers.entry import Entry, infer_entry, only
from fusekit_modules.layers.readout import common_label, with_readouts
from fusekit_modules.layers.recurrent import CellName, Recurrent


@register
class RecurrentSpec(StackSpec):
    """GRU or LSTM layers over a sequence, in one direction or both.

    Cho et al. 2014; Hochreiter and Schmidhuber 1997; both directions as in Schuster and Paliwal
    1997, half the width each. A padded step keeps the state. In one direction `.last` is the final
    state. In both it is not, for at the last step the way back has only begun: with `readout: 1` a
    token before all others holds the final states of the last layer, side by side, that of the way
    back from the first valid step; `.readout` reads it. Codes are embedded first; features enter
    the first layer as they are.
    """

    type: Literal["recurrent"] = "recurrent"
    cell: CellName = Field("gru", description="kind of cell")
    width: Width = Field(description="size of the states going out")
    depth: Depth = Field(1, description="layers")
    direction: Literal["forward", "both"] = Field("forward", description="how time is read")
    readout: Literal[0, 1] = Field(0, description="1: a token of final states, for .readout")
    dropout: Rate = Field(0.0, description="of what enters every layer but the first")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        both = {"cell": "lstm", "direction": "both", "depth": 2, "dropout": 0.2}
        return [{"width": 4}, {"width": 4, **both}, {"width": 4, **both, "readout": 1}]

    def layers(self) -> int:
        return self.depth

    def infer_start(self, inputs: Signatures) -> Signature:
        given = only(inputs)
        if self.direction == "both" and self.width % 2:
            raise WiringError(
                "two directions share the width",
                found=self.width,
                expected="an even width",
                field=("width",),
            )
        return infer_entry(given, self.width if given.dtype != "float" else None, 0)

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        return stream.with_(sizes=(("time", stream.length), ("embed", self.width)))

    def infer_end(self, stream: Signature) -> Signature:
        return with_readouts(stream, self.readout)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> Entry:
        width = self.infer_start(inputs).width
        return Entry(only(inputs), width, positions="keep", readout=0, rngs=rngs)

    def build_layer(self, index: int, stream: Signature, *, rngs: nnx.Rngs) -> "RecurrentLayer":
        return RecurrentLayer(self, stream.width, rngs=rngs)

    def build_end(self, stream: Signature, *, rngs: nnx.Rngs) -> "FinalStates | None":
        if not self.readout:
            return None
        return FinalStates(self.width // 2 if self.direction == "both" else self.width)


class FinalStates(nnx.Module):
    """Puts a token of the final states before all others: in the columns from `back` on, those at
    the first valid step, in the others those at the last. A row without any gets zeros."""

    def __init__(self, back: int):
        self.back = back

    def __call__(self, stream: Stream, *, context: Context) -> Stream:
        ahead = pool_last(stream.values[..., : self.back], stream.mask)
        back = pool_first(stream.values[..., self.back :], stream.mask)
        token = Stream(
            jnp.concatenate([ahead, back], axis=-1)[:, None],
            spans=(Span(common_label(stream.spans), 1, readout=True),),
        )
        return concatenate([token, stream.with_(presence=None)]).with_(presence=stream.presence)


class RecurrentLayer(nnx.Module):
    """One layer, in one direction or both side by side. It has no hooks."""

    def __init__(self, spec: RecurrentSpec, inputs: int, *, rngs: nnx.Rngs):
        self.dropout = spec.dropout
        both = spec.direction == "both"
        width = spec.width // 2 if both else spec.width
        self.forward = Recurrent(inputs, width, cell=spec.cell, rngs=rngs)
        self.backward = Recurrent(inputs, width, cell=spec.cell, rngs=rngs) if both else None

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context
    ) -> LayerOutput:
        edits = edits or Edits()
        refuse(edits, "a recurrent layer")
        x = stream.values
        if context.training and self.dropout:
            rate = jnp.asarray(context.layer) > 0
            x = jnp.where(rate, dropout(x, self.dropout, context=context), x)
        states = self.forward(x, stream.mask)
        if self.backward is not None:
            back = self.backward(x, stream.mask, direction="backward")
            states = jnp.concatenate([states, back], axis=-1)
        return LayerOutput(stream.with_(values=states), (None,) * len(edits.all))

"""Runs an operator over stacks of blocks without the graph: enter, layer, leave."""

from collections.abc import Mapping
from typing import Any, TypeVar

from flax import nnx

from fusekit.component import OperatorSpec, Signatures
from fusekit.context import Context
from fusekit.layered import Edits, LayerOutput
from fusekit.stream import Stream
from fusekit_modules.layers.block import Block

T = TypeVar("T")


class Lockstep:
    """Looks like a fusion's spec: one stack of blocks for each input, edited at `places`; the
    last `reads` inputs are what the operator reads besides."""

    def __init__(
        self, operator: OperatorSpec, *, depth: int, places: tuple[int, ...], reads: int = 0
    ):
        self.operator, self.depth, self.places, self.reads = operator, depth, places, reads

    def split(self, inputs: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
        """Of the stacks, and what is read."""
        items, count = list(inputs.items()), len(inputs) - self.reads
        return dict(items[:count]), dict(items[count:])

    def infer(self, inputs: Signatures) -> Any:
        edited, reads = self.split(inputs)
        found = self.operator.infer_edit(tuple(edited.values()), reads)
        return dict(zip(edited, found, strict=True))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Driven":
        return Driven(self, inputs, rngs=rngs)


class Driven(nnx.Module):
    """The stacks, the operator, and its module at each place where it has one."""

    def __init__(self, spec: Lockstep, inputs: Signatures, *, rngs: nnx.Rngs):
        self.split, self.where = spec.split, spec.places
        edited, reads = spec.split(inputs)
        streams = tuple(edited.values())
        self.operator = spec.operator.build_operator(streams, reads, rngs=rngs)
        places = [] if spec.operator.share else spec.places
        made = [spec.operator.build_layer(k, streams, reads, rngs=rngs) for k in range(len(places))]
        self.layers = nnx.List([module for module in made if module is not None])
        self.stacks = nnx.List(
            [
                nnx.List([Block(s.width, 2, hidden=5, rngs=rngs) for _ in range(spec.depth)])
                for s in streams
            ]
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        return self.walk(streams, context=context)[0]

    def walk(self, streams: dict[str, Stream], *, context: Context) -> Any:
        """The streams at the end, and the operator's ports at each place."""
        edited, reads = self.split({name: stream.clean() for name, stream in streams.items()})
        running = tuple(edited.values())
        state, ports = self.operator.begin(running, reads, context=context), []
        for layer in range(len(self.stacks[0])):
            blocks = [stack[layer] for stack in self.stacks]
            if layer not in self.where:
                pairs = zip(blocks, running, strict=True)
                running = tuple(block(x, context=context).stream for block, x in pairs)
                continue
            place = self.layers[self.where.index(layer)] if self.layers else self.operator
            edits, state = place.enter(running, reads, state, layers=blocks, context=context)
            outputs = []
            for block, x, edit in zip(blocks, running, edits, strict=True):
                out = block(x, Edits((edit,)), context=context)
                outputs.append(LayerOutput(out.stream, out.extras))
            running, state = place.leave(tuple(outputs), reads, state, context=context)
            ports.append(place.ports(state))
        return {k: x.clean() for k, x in zip(edited, running, strict=True)}, ports

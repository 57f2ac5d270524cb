"""A component by itself, as an ordinary NNX module: for notebooks and tests.

module = standalone(spec, {"input": sequence(16, 64)}, rngs=nnx.Rngs(0))
out = module({"input": Stream(values)}, context=Context())
"""

from collections.abc import Mapping

from flax import nnx

from fusekit.component import NodeSpec, Signatures, StackSpec
from fusekit.context import Context
from fusekit.layered import Edits
from fusekit.stream import Stream


class StandaloneStack(nnx.Module):
    """A stack with its layers inside; called like any component."""

    def __init__(self, spec: StackSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.shell = spec.build(inputs, rngs=rngs)
        stream = spec.infer_start(inputs)
        layers = []
        for index in range(spec.layers()):
            layers.append(spec.build_layer(index, stream, rngs=rngs))
            stream = spec.infer_layer(index, stream)
        self.layers = nnx.List(layers)
        self.end = spec.build_end(stream, rngs=rngs)

    def __call__(
        self, streams: Mapping[str, Stream], *, context: Context, edits: Edits | None = None
    ) -> Stream:
        """Runs start, every layer (each with the same `edits`, if any), and end."""
        stream = self.shell(streams, context=context)
        for index, layer in enumerate(self.layers):
            at = context.at(context.path, index)
            stream = layer(stream, edits or Edits(), context=at).stream
        return stream if self.end is None else self.end(stream, context=context)


def standalone(spec: NodeSpec, inputs: Signatures, *, rngs: nnx.Rngs) -> nnx.Module:
    """The component's module, layers included. Raises `WiringError` if the inputs do not fit."""
    spec.infer(inputs)
    if isinstance(spec, StackSpec):
        return StandaloneStack(spec, inputs, rngs=rngs)
    return spec.build(inputs, rngs=rngs)

"""What operators of one hook have in common: see `tests.support.hooks`."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx

from fusekit.context import Context
from fusekit.layered import Edit, Operator
from fusekit.parameter import parameter
from fusekit.stream import Span, Stream

EXTRA = 2
Weights = dict[str, tuple[tuple[str | int, ...], tuple[str | None, ...]]]
VECTOR = (("width",), ("embed",))
MATRIX = (("width", "width"), ("embed", "mlp"))


class Here(NamedTuple):
    """What an operator sees of one stream at one place."""

    stream: Stream
    reads: Any
    state: Any
    layers: Any
    number: int
    context: Context

    @property
    def layer(self) -> Any:
        """The layer about to run on it."""
        return self.layers[self.number]

    def other(self) -> Stream:
        """The one stream that is read."""
        (found,) = self.reads.values()
        return found


class Place(Operator):
    """One place. Subclasses name the hook, their weights' shapes and axes, and give `edit`."""

    hook: ClassVar[str]
    weights: ClassVar[Weights] = {}

    def __init__(self, spec: Any, width: int, rngs: nnx.Rngs):
        self.identity, self.width = spec.identity, width
        init = nnx.initializers.normal(0.5)
        for name, (sizes, axes) in {} if spec.identity else self.weights.items():
            shape = tuple(width if size == "width" else int(size) for size in sizes)
            setattr(self, name, parameter(rngs, init, shape, axes))

    def enter(self, streams, reads, state, *, layers, context):
        edits = [
            self.edit(Here(stream, reads, state, layers, number, context))
            for number, stream in enumerate(streams)
        ]
        return tuple(edits), state

    def edit(self, here: Here) -> Edit:
        raise NotImplementedError


class Passing(Operator):
    """What all places share: a state of extra tokens, zeros before the first place."""

    def begin(self, streams, reads, *, context):
        first = streams[0].values
        return jnp.zeros((first.shape[0], EXTRA, first.shape[-1]), first.dtype)


def extra(values: Any, *, readable: bool) -> Stream:
    """Extra tokens `[b, n, d]`; not readable ones are padding."""
    mask = jnp.full(values.shape[:2], readable)
    return Stream(values, mask, spans=(Span("extra", values.shape[1]),))

"""One small operator for each hook of `fusekit.layered.Edit`, as plug-in components.

`hook_<name>` uses that hook alone. With `identity: true` it asks for what changes nothing; without,
it changes the stream by weights that each place has of its own (a mask rule has none).
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from fusekit.component import OperatorSpec, register
from fusekit.layered import Branch, Edit, KeyValue, LowRank, NormDelta, Operator
from fusekit.parameter import parameter
from fusekit.stream import Span, Stream

RANK = 2
EXTRA = 2


class Place(Operator):
    """One place. Subclasses name their weights' shapes and axes, and give `edit`."""

    weights: ClassVar[dict[str, tuple[tuple[str | int, ...], tuple[str | None, ...]]]] = {}

    def __init__(self, spec: Any, width: int, rngs: nnx.Rngs):
        self.identity, self.width = spec.identity, width
        init = nnx.initializers.normal(0.5)
        for name, (sizes, axes) in {} if spec.identity else self.weights.items():
            shape = tuple(width if size == "width" else int(size) for size in sizes)
            setattr(self, name, parameter(rngs, init, shape, axes))

    def enter(self, streams, reads, state, *, layers, context):
        edits = [
            self.edit(stream, reads, state, layers, number) for number, stream in enumerate(streams)
        ]
        return tuple(edits), state

    def edit(self, stream, reads, state, layers, number) -> Edit:
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


class StreamPlace(Place):
    weights = {"shift": (("width",), ("embed",))}

    def edit(self, stream, reads, state, layers, number):
        if self.identity:
            return Edit(stream=stream)
        return Edit(stream=stream.with_(values=stream.values + self.shift[...]))


class TokensPlace(Place):
    """The tokens that come back are the state of the next place."""

    weights = {"tokens": ((EXTRA, "width"), (None, "embed"))}

    def edit(self, stream, reads, state, layers, number):
        if self.identity:
            return Edit(tokens=extra(state, readable=False))
        return Edit(tokens=extra(jnp.tanh(state) + self.tokens[...], readable=True))

    def leave(self, outputs, reads, state, *, context):
        mean = sum(output.extras[0].values for output in outputs) / len(outputs)
        return tuple(output.stream for output in outputs), mean


class KeysValuesPlace(Place):
    """Attention reads what another stack has made, changed by a matrix."""

    weights = {"mix": (("width", "width"), ("embed", "mlp"))}

    def edit(self, stream, reads, state, layers, number):
        if self.identity:
            return Edit(keys_values=extra(stream.values, readable=False))
        (other,) = reads.values()
        return Edit(keys_values=other.with_(values=other.values @ self.mix[...]))


class KeyValuePlace(Place):
    """Keys and values already projected, by the layer about to run."""

    weights = {"scale": (("width",), ("embed",))}

    def edit(self, stream, reads, state, layers, number):
        if self.identity:
            source = extra(stream.values, readable=False)
        else:
            (other,) = reads.values()
            source = other.with_(values=other.values * self.scale[...])
        projected = layers[number].keys_values(source)
        return Edit(keys_values=KeyValue(projected.key, projected.value, source))


class MaskPlace(Place):
    def edit(self, stream, reads, state, layers, number):
        def rule(queries, keys):
            if self.identity:
                return jnp.ones((queries.length, keys.length), bool)
            return jnp.abs(queries.positions()[..., :, None] - keys.positions()[..., None, :]) < 2

        return Edit(mask=rule)


class NormPlace(Place):
    weights = {
        "scale": (("width",), ("embed",)),
        "bias": (("width",), ("embed",)),
        "own": (("width",), ("embed",)),
    }

    def edit(self, stream, reads, state, layers, number):
        if self.identity:
            none = jnp.zeros(self.width)
            return Edit(norm={"attention": NormDelta(none, none), "mlp": NormDelta(none, none)})
        by_sample = jnp.tanh(jnp.mean(stream.values, 1)) * self.own[...]
        return Edit(
            norm={
                "attention": NormDelta(self.scale[...], self.bias[...]),
                "mlp": NormDelta(by_sample, by_sample),
            }
        )


class ReplacePlace(Place):
    """For the tokens of `b`, another map in place of the feed-forward."""

    weights = {"kernel": (("width", "width"), ("embed", "mlp"))}

    def edit(self, stream, reads, state, layers, number):
        def own(given):
            return given.with_(values=layers[number].mlp(given.values))

        def other(given):
            return given.with_(values=jnp.tanh(given.values @ self.kernel[...]))

        return Edit(replace={"mlp": Branch(own if self.identity else other, ("b",))})


class SkipPlace(Place):
    def edit(self, stream, reads, state, layers, number):
        return Edit(skip={"attention": ("nobody",) if self.identity else ("b",)})


class ResidualPlace(Place):
    weights = {"kernel": (("width", "width"), ("embed", "mlp"))}

    def edit(self, stream, reads, state, layers, number):
        def branch(given):
            kernel = jnp.zeros((self.width,) * 2) if self.identity else self.kernel[...]
            return given.with_(values=given.values @ kernel)

        return Edit(residual={"attention": Branch(branch), "mlp": Branch(branch, ("a",))})


class WeightsPlace(Place):
    """One delta for all samples, and one a sample."""

    weights = {
        "down": (("width", RANK), ("embed", "rank")),
        "up": ((RANK, "width"), ("rank", "embed")),
    }

    def edit(self, stream, reads, state, layers, number):
        if self.identity:
            down, up = jnp.ones((self.width, RANK)), jnp.zeros((RANK, self.width))
            return Edit(weights={"attention.query": LowRank(down, up)})
        down, up = self.down[...], self.up[...]
        by_sample = jnp.tanh(jnp.mean(stream.values, (1, 2)))[:, None, None] * down
        ups = jnp.broadcast_to(up, (stream.batch, *up.shape))
        return Edit(
            weights={
                "attention.query": LowRank(down, up),
                "attention.out": LowRank(by_sample, ups, 0.5),
            }
        )


class HookSpec(OperatorSpec):
    """An operator with one hook."""

    place: ClassVar[type[Place]]

    identity: bool = False

    def build_operator(self, streams, reads, *, rngs):
        return Passing()

    def build_layer(self, index, streams, reads, *, rngs):
        return self.place(self, streams[0].width, rngs)


PLACES: dict[str, type[Place]] = {
    "stream": StreamPlace,
    "tokens": TokensPlace,
    "keys_values": KeysValuesPlace,
    "key_value": KeyValuePlace,
    "mask": MaskPlace,
    "norm": NormPlace,
    "replace": ReplacePlace,
    "skip": SkipPlace,
    "residual": ResidualPlace,
    "weights": WeightsPlace,
}
"""By the name after `hook_`; `key_value` is the hook `keys_values`, projected."""


def _declare(name: str, place: type[Place]) -> None:
    hook = {"key_value": "keys_values"}.get(name, name)
    fields = {
        "__module__": __name__,
        "__doc__": f"Uses the hook {hook}.",
        "__annotations__": {"type": Literal[f"hook_{name}"]},
        "type": f"hook_{name}",
        "needs": frozenset() if hook == "stream" else frozenset({hook}),
        "place": place,
    }
    register(type(f"Hook{place.__name__}Spec", (HookSpec,), fields))


for _name, _place in PLACES.items():
    _declare(_name, _place)

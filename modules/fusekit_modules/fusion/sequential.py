"""Fusion one modality after another."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Span, Stream, sequence, vector
from fusekit_modules.fusion._present import choose, emit, read
from fusekit_modules.fusion._vectors import WidthFusionSpec
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.linear import Linear


@register
class SequentialSpec(WidthFusionSpec):
    """A state that each modality in turn updates, in the order of `inputs`: MultiModN (Swamy 2023).

    Points: `@0` the learned start, `@k` the state after input k, so that a head may read `@..`;
    without a point, the last state. Port `steps`: the states as a sequence, each labelled with its
    input. Ports `before` and `after`: the state before and after each input; their `squared_error`
    is the penalty on changes, a mean over all steps that all samples take. A sample skips the
    modality it lacks: its state stays, and that step is padding. With nothing at all it is absent,
    at the start too.
    """

    least = 1
    type: Literal["sequential"] = "sequential"
    hidden: tuple[Width, ...] = Field((32,), description="layers on a modality before the state")
    activation: ActivationName = Field("relu", description="after each of those layers")

    def points(self) -> int:
        return len(self.inputs) + 1

    def infer(self, inputs: Signatures) -> Outputs:
        out, padded = super().infer(inputs), any(s.optional for s in inputs.values())
        optional = all(signature.optional for signature in inputs.values())
        width, spans = self.out_width(inputs), spans_of(inputs)
        steps = sequence(len(spans), width, spans=spans, padded=padded, optional=optional)
        change = sequence(len(inputs), width, spans=spans[1:], padded=padded, optional=optional)
        flags = [optional, *(signature.optional for signature in inputs.values())]
        states = {f"@{k}": vector(width, optional=flag) for k, flag in enumerate(flags)}
        return {"out": out, "steps": steps, "before": change, "after": change, **states}  # pyright: ignore

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Sequential":
        return Sequential(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"hidden": [], "width": 4}]


def spans_of(inputs: Signatures) -> tuple[Span, ...]:
    """A token for the start and one for each input, labelled with the node it comes from."""
    names = [role.split("@")[0].split(".")[0] for role in inputs]
    return tuple(Span(name, 1) for name in ["start", *names])


class Update(nnx.Module):
    """s' = W [h; s] + b, h = MLP(x) with an activation after every layer: `[b, state]`."""

    def __init__(self, spec: SequentialSpec, given: int, state: int, *, rngs: nnx.Rngs):
        self.activation: ActivationName = spec.activation
        widths = (given, *spec.hidden)
        # uncut over `tensor`: what is joined with the state would be sent about to be laid anew
        pairs, axes = zip(widths, spec.hidden, strict=False), ("embed", None)
        self.hidden = nnx.List([Linear(*pair, axes=axes, rngs=rngs) for pair in pairs])
        self.out = Linear(widths[-1] + state, state, axes=(None, "embed"), rngs=rngs)

    def __call__(self, state: jnp.ndarray, x: jnp.ndarray) -> jnp.ndarray:
        for layer in self.hidden:
            x = activation(self.activation)(layer(x))
        return self.out(jnp.concatenate([x, state], axis=1))


class Sequential(nnx.Module):
    """s_0 learned; s_k = Update_k(s_{k-1}, x_k) where present, else s_{k-1}."""

    def __init__(self, spec: SequentialSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width, self.spans = spec.out_width(inputs), spans_of(inputs)
        self.start = parameter(rngs, initializers.normal(1.0), (width,), ("embed",))
        updates = [Update(spec, s.width, width, rngs=rngs) for s in inputs.values()]
        self.updates = nnx.List(updates)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        values, present = read(streams)
        given, dtype = streams.values(), values[0].dtype
        start = self.start[...].astype(dtype)
        states = [jnp.broadcast_to(start[None], (present.shape[0], start.size))]
        for index, (update, value) in enumerate(zip(self.updates, values, strict=True)):
            states.append(choose(present[:, index], update(states[-1], value), states[-1]))
        stacked = jnp.stack(states, axis=1)
        padded = any(stream.presence is not None for stream in given)
        mask = jnp.pad(present, ((0, 0), (1, 0)), constant_values=True) if padded else None
        steps = emit(stacked, given).with_(mask=mask, spans=self.spans).clean()
        after = steps.cut(1, steps.length)
        before = after.with_(values=stacked[:, :-1]).clean()
        presences = [steps.presence, *(stream.presence for stream in given)]
        points = {
            f"@{k}": Stream(state, presence=presence).clean()
            for k, (state, presence) in enumerate(zip(states, presences, strict=True))
        }
        sequences = {"steps": steps, "before": before, "after": after}
        return {"out": emit(states[-1], given), **sequences, **points}

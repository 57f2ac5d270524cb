"""Components small enough to follow by hand, for tests of the graph and the program."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fusekit.component import (
    EncoderSpec,
    HeadSpec,
    LossSpec,
    LossValue,
    ModalitySpec,
    OperatorSpec,
    OptimizerSpec,
    ScheduleSpec,
    StackSpec,
    register,
)
from fusekit.config.reference import Ref
from fusekit.config.spec import Experiment
from fusekit.layered import Edit, LayerOutput, Operator
from fusekit.parameter import parameter, statistic
from fusekit.stream import Signature, Stream, concatenate, sequence, vector


@register
class ToyVector(ModalitySpec):
    """A vector."""

    type: Literal["toy_vector"] = "toy_vector"
    width: int = 4

    def signature(self):
        return vector(self.width, optional=self.optional)

    def collate(self, rows):
        return np.asarray(rows, np.float32), None


@register
class ToySequence(ModalitySpec):
    """A padded sequence of vectors."""

    type: Literal["toy_sequence"] = "toy_sequence"
    length: int = 5
    width: int = 4

    def signature(self):
        return sequence(self.length, self.width, label="toy", padded=True, optional=self.optional)


@register
class ToyNumber(ModalitySpec):
    """A number."""

    type: Literal["toy_number"] = "toy_number"

    def signature(self):
        return Signature((), optional=self.optional)


@register
class ToyDense(EncoderSpec):
    """One matrix; drops features in training; keeps a running mean of its input."""

    type: Literal["toy_dense"] = "toy_dense"
    width: int = 4

    def infer(self, inputs):
        return vector(self.width, optional=inputs["input"].optional)

    def build(self, inputs, *, rngs):
        return Dense(inputs["input"].width, self.width, rngs)


class Dense(nnx.Module):
    def __init__(self, given: int, width: int, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = parameter(rngs, init, (given, width), ("embed", "mlp"))
        self.mean = statistic(jnp.zeros(given), ("embed",))

    def __call__(self, streams, *, context):
        x: Stream = streams["input"]
        values = x.values
        if context.training:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * jnp.mean(values, 0)
            values = values * jax.random.bernoulli(context.rng("dropout"), 0.9, values.shape)
        return Stream(values @ self.kernel[...].astype(values.dtype), presence=x.presence)


@register
class ToyStack(StackSpec):
    """Layers x + tanh(x W) with the hook `tokens`."""

    type: Literal["toy_stack"] = "toy_stack"
    depth: int = 4
    hooks = frozenset({"tokens", "mask"})

    def layers(self):
        return self.depth

    def infer_start(self, inputs):
        return inputs["input"]

    def build(self, inputs, *, rngs):
        return Shell()

    def build_layer(self, index, stream, *, rngs):
        return Layer(stream.width, rngs)


class Shell(nnx.Module):
    def __call__(self, streams, *, context):
        return streams["input"]


class Layer(nnx.Module):
    """Each token adds tanh of the mean of all valid tokens, times W."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.3)
        self.kernel = parameter(rngs, init, (width, width), ("embed", "mlp"))

    def __call__(self, stream, edits, *, context):
        extras = [e.tokens for e in edits.all]
        parts = [stream, *[e for e in extras if e is not None]]
        whole = concatenate(parts)
        valid = whole.valid()
        weight = (jnp.ones(whole.values.shape[:2]) if valid is None else valid.astype(jnp.float32))[
            ..., None
        ]
        mean = (whole.values * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
        delta = jnp.tanh(mean @ self.kernel[...])[:, None]
        if context.training:
            keep = jax.random.bernoulli(context.rng("drop"), 0.8, (delta.shape[0], 1, 1))
            delta = delta * keep
        context.collect("mean", mean)
        out = stream.with_(values=stream.values + delta)
        return LayerOutput(
            out, tuple(None if e is None else e.with_(values=e.values + delta) for e in extras)
        )


@register
class ToyExchange(OperatorSpec):
    """Bottleneck without attention: shared tokens, averaged after each place, own scale a place."""

    type: Literal["toy_exchange"] = "toy_exchange"
    tokens: int = 2
    needs = frozenset({"tokens"})
    port_names = ("norm",)

    def infer_ports(self, streams, reads):
        return {"norm": Signature(())}

    def build_operator(self, streams, reads, *, rngs):
        return Exchange(self.tokens, streams[0].width, rngs)

    def build_layer(self, index, streams, reads, *, rngs):
        return ExchangePlace(streams[0].width, rngs)


class Exchange(Operator):
    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.5)
        self.tokens = parameter(rngs, init, (tokens, width), (None, "embed"))

    def begin(self, streams, reads, *, context):
        tokens = self.tokens[...]
        return Stream(jnp.broadcast_to(tokens, (streams[0].batch, *tokens.shape)))


class ExchangePlace(Operator):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.scale = parameter(rngs, nnx.initializers.normal(1.0), (width,), ("embed",))

    def enter(self, streams, reads, state, *, layers, context):
        tokens = state.with_(values=state.values * self.scale[...])
        return tuple(Edit(tokens=tokens) for _ in streams), state

    def leave(self, outputs, reads, state, *, context):
        mean = sum(o.extras[0].values for o in outputs) / len(outputs)
        return tuple(o.stream for o in outputs), state.with_(values=mean)

    def ports(self, state):
        return {"norm": Stream(jnp.sum(state.values**2, (1, 2)))}


@register
class ToyAdd(OperatorSpec):
    """Adds what it reads (its mean) to the entering stream."""

    type: Literal["toy_add"] = "toy_add"

    def build_operator(self, streams, reads, *, rngs):
        return Operator()

    def build_layer(self, index, streams, reads, *, rngs):
        return AddPlace(streams[0].width, rngs)


class AddPlace(Operator):
    def __init__(self, width: int, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.3)
        self.kernel = parameter(rngs, init, (width, width), ("embed", "mlp"))

    def enter(self, streams, reads, state, *, layers, context):
        (other,) = reads.values()
        extra = jnp.mean(other.values, 1) @ self.kernel[...]
        return (
            tuple(Edit(stream=s.with_(values=s.values + extra[:, None])) for s in streams),
            state,
        )


@register
class ToyHead(HeadSpec):
    """One number."""

    type: Literal["toy_head"] = "toy_head"

    def infer(self, inputs):
        return Signature((), optional=inputs["input"].optional)

    def build(self, inputs, *, rngs):
        return Head(inputs["input"].width, rngs)


class Head(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.kernel = parameter(rngs, nnx.initializers.normal(1.0), (width,), ("embed",))

    def __call__(self, streams, *, context):
        x = streams["input"]
        return Stream(x.values @ self.kernel[...], presence=x.presence)


@register
class ToySquare(LossSpec):
    """Squared distance, times a learned scale."""

    type: Literal["toy_square"] = "toy_square"
    prediction: Ref
    target: Ref

    def build(self, inputs, *, rngs):
        return Square(rngs)


class Square(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.scale = parameter(rngs, nnx.initializers.ones, (1,), (None,))

    def __call__(self, streams, *, rows, context):
        gap = (streams["prediction"].values - streams["target"].values) ** 2 * self.scale[0]
        return LossValue(jnp.where(rows, gap, 0.0), rows.astype(jnp.float32))


@register
class ToySgd(OptimizerSpec):
    """Plain gradient descent with momentum."""

    type: Literal["toy_sgd"] = "toy_sgd"

    def build(self, learning_rate):
        return optax.sgd(learning_rate, momentum=0.9)


@register
class ToyConstant(ScheduleSpec):
    """One."""

    type: Literal["toy_constant"] = "toy_constant"

    def build(self, steps):
        return optax.constant_schedule(1.0)


def _experiment(sections):
    train = {"steps": 10, "optimizer": {"type": "toy_sgd"}, "schedule": {"type": "toy_constant"}}
    sections = {"version": 1, **sections}
    sections["train"] = train | {"learning_rate": 0.01} | sections.get("train", {})
    return Experiment.of(sections)


def one_stack(*, depth=4, modalities_too=(), **changes):
    """One stack over an optional padded sequence, one head, one loss."""
    return _experiment(
        {
            "modalities": {
                "a": {"type": "toy_sequence", "optional": True},
                "y": {"type": "toy_number"},
                **{name: {"type": "toy_sequence"} for name in modalities_too},
            },
            "encoders": {"a": {"type": "toy_stack", "depth": depth}},
            "heads": {"h": {"type": "toy_head", "input": "a.mean"}},
            "losses": {"l": {"type": "toy_square", "prediction": "h", "target": "batch.y"}},
            **changes,
        }
    )


def two_stacks(*, depth=6, **changes):
    """Two stacks that exchange tokens from layer 2 on, and a plain encoder with statistics."""
    return _experiment(
        {
            "modalities": {
                "a": {"type": "toy_sequence", "optional": True},
                "b": {"type": "toy_sequence", "length": 3},
                "v": {"type": "toy_vector"},
                "y": {"type": "toy_number"},
            },
            "encoders": {
                "a": {"type": "toy_stack", "depth": depth},
                "b": {"type": "toy_stack", "depth": depth},
                "v": {"type": "toy_dense"},
            },
            "fusion": {"mix": {"type": "toy_exchange", "into": ["a@2..", "b@2.."]}},
            "heads": {
                "h": {"type": "toy_head", "input": "a.mean"},
                "g": {"type": "toy_head", "input": "b.last"},
                "k": {"type": "toy_head", "input": "v"},
            },
            "losses": {
                "l": {"type": "toy_square", "prediction": "h", "target": "batch.y"},
                "m": {"type": "toy_square", "prediction": "g", "target": "batch.y"},
                "k": {"type": "toy_square", "prediction": "k", "target": "batch.y"},
            },
            **changes,
        }
    )


def batch(seed=0, size=8, *, garbage=np.nan, absent=0.4, names=("a", "b", "v", "y")):
    """A batch with padding and absences; what stands there is `garbage`."""
    r = np.random.default_rng(seed)
    mask = r.random((size, 5)) < 0.7
    mask[:, 0] = True
    presence = r.random(size) >= absent
    values = r.normal(size=(size, 5, 4)).astype("float32")
    values[~mask] = garbage
    values[~presence] = garbage
    found = {
        "a": Stream(values, mask, presence),
        "b": Stream(r.normal(size=(size, 3, 4)).astype("float32"), np.ones((size, 3), bool)),
        "v": r.normal(size=(size, 4)).astype("float32"),
        "y": r.normal(size=size).astype("float32"),
    }
    return {name: found[name] for name in names}

"""Trunks side by side in one program, each edited by operators of its own.

All trunks read the same tokens, start with the same parameters, and have a head and a loss each. So
one compilation serves many hooks, and each trunk's loss and gradients are those of its hooks alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import fusekit
from fusekit.component import EncoderSpec, register
from fusekit.graph import Graph
from fusekit.graph.packing import pack, unpack
from fusekit.layout import Layout
from fusekit.parameter import statistic
from fusekit.program import Program, Replicas
from fusekit.stream import Stream
from fusekit.train.state import TrainState
from tests.support import hooks as _hooks  # registers `hook_...`
from tests.support.training import arrays, gradients

assert _hooks

WIDTH = 8
CLASSES = 3
STACK = {"type": "transformer", "depth": 2, "width": WIDTH, "heads": 2, "mlp_ratio": 1}
READS = {"keys_values": "batch.a", "key_value": "batch.b"}
PLAIN = "plain"


@register
class Watched(EncoderSpec):
    """Gives on what it gets, and keeps a running mean of it."""

    type: Literal["hook_watched"] = "hook_watched"

    def infer(self, inputs):
        return inputs["input"]

    def build(self, inputs, *, rngs):
        return Watch(inputs["input"].width)


class Watch(nnx.Module):
    def __init__(self, width: int):
        self.mean = statistic(jnp.zeros(width), ("embed",))

    def __call__(self, streams, *, context):
        stream = streams["input"]
        if context.training:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * jnp.mean(stream.values, 0)
        return stream


@dataclass(frozen=True)
class Trunk:
    """One trunk and the operators that edit it.

    Args:
      operators: names of hooks, in order.
      identity: whether they ask for what changes nothing.
      lockstep: whether `tokens` exchanges with another stack, of which `keys_values` reads.
    """

    operators: tuple[str, ...] = ()
    identity: bool = False
    lockstep: bool = False


def graph(trunks: dict[str, Trunk], **stack: Any) -> Graph:
    """The trunks `at_...`, their ends `watched_...`, their heads and losses `of_...`, and what runs
    in lockstep with them `beside_...`. Other fields of the stacks are given by name."""
    stack = {**STACK, **stack}
    modality = {"type": "features", "width": WIDTH, "optional": True}
    fusion = {"joined": {"type": "concat", "axis": "sequence", "inputs": ["batch.a", "batch.b"]}}
    encoders, heads, losses = {}, {}, {}
    for name, trunk in trunks.items():
        encoders[f"at_{name}"] = {**stack, "input": "joined"}
        encoders[f"watched_{name}"] = {"type": "hook_watched", "input": f"at_{name}.mean"}
        ends = {f"of_{name}": f"watched_{name}"}
        into, reads = {}, dict(READS)
        if trunk.lockstep:
            encoders[f"beside_{name}"] = {**stack, "input": "batch.a"}
            into["tokens"] = [f"at_{name}@..", f"beside_{name}@.."]
            reads["keys_values"] = f"beside_{name}@input"
            ends[f"beside_of_{name}"] = f"beside_{name}.mean"
        for of, end in ends.items():
            heads[of] = {"type": "classifier", "input": end, "classes": CLASSES}
            losses[of] = {"type": "cross_entropy", "prediction": of, "target": "batch.label"}
        for operator in trunk.operators:
            fusion[f"{operator}_at_{name}"] = {
                "type": f"hook_{operator}",
                "identity": trunk.identity,
                "into": into.get(operator, [f"at_{name}@.."]),
                **({"inputs": [reads[operator]]} if operator in reads else {}),
            }
    return fusekit.resolve(
        fusekit.experiment(
            modalities={
                "a": {**modality, "length": 3},
                "b": {**modality, "length": 2},
                "label": {"type": "label", "classes": CLASSES},
            },
            encoders=encoders,
            fusion=fusion,
            heads=heads,
            losses=losses,
            train={
                "optimizer": {"type": "sgd", "momentum": 0.9},
                "learning_rate": 0.1,
                "steps": 10,
            },
        )
    )


def batch(seed: int, size: int = 8) -> dict[str, Stream]:
    """Rows of which some are padded and some lack a modality; NaN stands there."""
    r = np.random.default_rng(seed)
    found = {"label": Stream(r.integers(0, CLASSES, size).astype("int32"))}
    for name, length in (("a", 3), ("b", 2)):
        mask = np.arange(length) < r.integers(1, length + 1, (size, 1))
        presence = r.random(size) < 0.7
        values = r.normal(size=(size, length, WIDTH)).astype("float32")
        values[~(mask & presence[:, None])] = np.nan
        found[name] = Stream(values, mask, presence)
    return found


@dataclass(frozen=True)
class Way:
    """How a program runs."""

    layers: Literal["unroll", "scan"] = "unroll"
    remat: Literal["none", "full"] = "none"
    mesh: bool = False
    replicas: Literal["vmap", "loop"] | None = None

    def program(self, graph: Graph) -> Program:
        return Program(
            graph,
            layers=self.layers,
            layout=Layout.of({"data": 2, "fsdp": 2, "tensor": 2}) if self.mesh else None,
            replicas=2 if self.replicas else 1,
            mode=self.replicas,
        )


def as_plain(path: str) -> str:
    """The path of the same array in the plain trunk."""
    return re.sub(r"\b(at|watched|of)_[a-z_]+\b", rf"\1_{PLAIN}", path)


def drawn(path: str, like: Any, seed: int) -> np.ndarray:
    """A parameter: about 1 for scales, about 0 for all else, and never quite that."""
    r = np.random.default_rng([seed, crc32(as_plain(path).encode())])
    return (path.endswith("scale") + r.normal(0.0, 0.4, like.shape)).astype(like.dtype)


def blank(program: Program, seed: int) -> TrainState:
    """A state to evaluate: no parameter is as modules make them, and all trunks have the same."""
    params, variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.model.abstract()
    )
    flat = unpack(params, program.model.groups)
    flat = {path: drawn(path, value, seed) for path, value in flat.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=pack(flat, params, program.model.groups),
        variables=jax.tree.map(jnp.asarray, variables),
        optimizer=(),
        key=jax.random.key(seed),
    )


def start(program: Program, seed: int) -> TrainState:
    """The same as a state to train."""
    state, states = blank(program, seed), program.states
    optimizer = jax.jit(states.optimizer.init)(states.trainable(state.params))
    return jax.device_put(state.with_(optimizer=optimizer), states.shardings)


@dataclass(frozen=True)
class Found:
    """What one trunk got of the first step: its loss, gradients and variables by path."""

    loss: np.ndarray
    gradients: dict[str, np.ndarray]
    variables: dict[str, np.ndarray]

    def of(self, operator: str) -> dict[str, np.ndarray]:
        """The gradients of an operator's weights."""
        return {n: v for n, v in self.gradients.items() if n.startswith(f"{operator}_at_")}


def alone(program: Program, seeds: Sequence[int], given: dict) -> list[dict[str, Found]]:
    """By seed, what each trunk gets of its first step."""
    done = [program.step(start(program, seed), given) for seed in seeds]
    return [found(program.flat(state), metrics) for state, metrics in done]


def together(program: Program, seeds: Sequence[int], given: dict) -> list[dict[str, Found]]:
    """The same, where the seeds are the replicas of one state."""
    states = tuple(start(program, seed) for seed in seeds)
    state: Any = Replicas(states)
    if program.vmapped:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        state = jax.device_put(stacked, program.states.side_by_side)
    state, metrics = program.step(state, given)
    return [
        found(
            program.flat(program.replica(state, k)),
            {name: value[k] for name, value in metrics.items()},
        )
        for k in range(len(seeds))
    ]


def found(flat: dict, metrics: dict) -> dict[str, Found]:
    """A state after its first step and the step's metrics, by trunk."""
    flat, metrics = arrays(flat), arrays(metrics)
    variables = {n: v for n, v in flat.items() if n.startswith("variables.")}
    by_path = gradients(flat)
    names = [n.removeprefix("losses.of_") for n in metrics if n.startswith("losses.of_")]
    return {
        name: Found(metrics[f"losses.of_{name}"], _of(by_path, name), _of(variables, name))
        for name in names
    }


def _of(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one trunk: of its parts, and of the operators in it."""
    mine = re.compile(rf"(^|\.)([a-z_]+_)?(at|watched|of|beside)_{name}(\.|$)")
    return {path: value for path, value in arrays.items() if mine.search(path)}

"""Operators as the compiler runs them: scanned or unrolled, the training is the same."""

import jax
import numpy as np
import pytest

from fusekit.api import experiment
from fusekit.graph import resolve
from fusekit.graph.schedule import Scan
from fusekit.program import Program
from fusekit.stream import Stream

STACK = {"type": "transformer", "depth": 3, "width": 4, "heads": 2}
OPERATORS = {
    "bottleneck": {"type": "bottleneck", "into": ["a@1..", "b@1.."], "tokens": 2},
    "experts": {"type": "experts", "into": ["a@1..", "b@1.."], "experts": 3, "hidden": 3},
    "modality_experts": {"type": "modality_experts", "into": ["a@1..", "b@1.."], "hidden": 3},
}


def declared(name):
    losses = {
        "y": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"},
        "z": {"type": "cross_entropy", "prediction": "z", "target": "batch.label"},
    }
    if name == "experts":
        losses["balance"] = {"type": "auxiliary", "input": "meet.balance", "weight": 0.5}
        losses["small"] = {"type": "auxiliary", "input": "meet.z", "weight": 0.5}
    return experiment(
        modalities={
            "a": {"type": "features", "length": 3, "width": 4, "optional": True},
            "b": {"type": "features", "length": 2, "width": 4, "optional": True},
            "label": {"type": "label", "classes": 2},
        },
        encoders={"a": STACK, "b": STACK},
        fusion={"meet": OPERATORS[name]},
        heads={
            "y": {"type": "classifier", "input": "a.mean", "classes": 2},
            "z": {"type": "classifier", "input": "b.mean", "classes": 2},
        },
        losses=losses,
    )


def batch(garbage):
    r = np.random.default_rng(0)
    presence = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([1, 0, 1, 0], bool)}
    out = {"label": Stream(np.array([0, 1, 0, 1], "int32"))}
    for name, length in (("a", 3), ("b", 2)):
        values = r.normal(size=(4, length, 4)).astype("float32")
        mask = np.arange(length) < np.array([[length], [1], [length], [2]])
        values[~(mask & presence[name][:, None])] = garbage
        out[name] = Stream(values, mask, presence[name])
    return out


def train(graph, layers, garbage=0.0):
    program = Program(graph, layers=layers)
    state = program.init(0)
    for _ in range(2):
        state, metrics = program.step(state, batch(garbage))
    return program, np.asarray(metrics["loss"]), program.flat(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["experts", "bottleneck", "modality_experts"])
def test_scan_and_unroll_agree(name):
    graph = resolve(declared(name))
    program, loss, state = train(graph, "scan", np.nan)
    assert any(isinstance(item, Scan) for item in program.model.items)
    _, other, unrolled = train(graph, "unroll")
    assert np.isfinite(loss)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    assert state.keys() == unrolled.keys()
    for path, leaf in state.items():
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(leaf, unrolled[path], atol=5e-5, err_msg=path)

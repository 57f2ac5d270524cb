"""Meshes that split tokens: the numbers of one device, and what is sent for them."""

import re

import jax
import pytest

from fusekit.batch import blank
from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.plan.hlo.costs import costs
from fusekit.program import Program
from tests.support.long import early, rows
from tests.support.meshes import check_meshes
from tests.support.often import often

FOUR, CUBE = {"sequence": 4}, {"data": 2, "sequence": 2, "tensor": 2}
BY_LABEL = {"a": {"a": "latest"}, "b": {"a": "all", "b": "causal"}}
CASES = {
    "all": {},
    "causal, dropout": {"causal": True, "dropout": 0.2, "drop_path": 0.1},
    "by label": {"attend": BY_LABEL, "positions": "rotary"},
}
OPERATORS = {
    "extra keys": {"memory": {"type": "memory", "inputs": ["a"], "into": "trunk@.."}},
    "a mask": {"mask": {"type": "mask", "into": "trunk@0", "attend": {"a": ["a"], "b": ["b"]}}},
    "few queries": {
        "few": {"type": "resampler", "inputs": ["a"], "tokens": 3, "depth": 1, "heads": 2},
        "memory": {"type": "memory", "inputs": ["few"], "into": "trunk@.."},
    },
    "another stream": {"cross": {"type": "cross_attention", "inputs": ["a"], "into": "trunk@.."}},
}


@pytest.mark.parametrize("case", often(CASES, ["by label"]))
def test_masks_and_dropout(case):
    experiment = early(32, trunk=CASES[case], mesh={"layers": "scan"})
    check_meshes(experiment, rows(experiment), [FOUR, CUBE])


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    experiment = early(32, trunk={"depth": 1}, fusion=OPERATORS[name])
    check_meshes(experiment, rows(experiment), [FOUR])


@pytest.mark.parametrize("length", often([30, 516], [516]))
def test_lengths_that_do_not_divide(length):
    """Short streams stay whole; long ones are filled up: a readout token makes them odd."""
    experiment = early(length, trunk={"readout": 1, "causal": True, "depth": 1})
    check_meshes(experiment, rows(experiment), [FOUR])


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [4, 3])
def test_tokens_that_an_operator_brings_into_layers(tokens, monkeypatch):
    """With four the ring takes twelve tokens, with three eleven and one that fills them up."""
    monkeypatch.setattr("fusekit_modules.layers.place.LEAST", 1)
    experiment = early(
        16,
        each={"type": "transformer", "depth": 1, "heads": 2},
        trunk={"depth": 1},
        fusion={"bottleneck": {"type": "bottleneck", "into": ["a@0", "b@0"], "tokens": tokens}},
    )
    check_meshes(experiment, rows(experiment), [FOUR])


def traced(experiment, layout, batch):
    """The train step, traced for a mesh."""
    program = Program(resolve(experiment), layout=layout, layers="unroll")
    placed = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    state = jax.tree.map(placed, program.states.abstract, program.states.shardings)
    given = jax.tree.map(lambda x: placed(x, layout.batch(x)), blank(program.model, batch))
    return program.compiled_step.trace(state, given)


def test_a_component_may_keep_its_tokens_whole():
    experiment = early(32)
    apart = {"trunk": {"activations": {"time": None}}}
    for components in ({}, apart):
        step = traced(experiment, Layout.of(FOUR, components=components), 4)
        assert ("ppermute" in str(step.jaxpr)) == (not components)


def test_no_device_holds_all_keys_or_their_scores():
    length, batch, width = 1096, 8, 32
    part = length // 4
    experiment = early(length, trunk={"causal": True}, width=width, batch=batch)
    layout = Layout.of({"data": 2, "sequence": 4})
    text = traced(experiment, layout, batch).lower().compile().as_text()
    found = costs(text, dict(layout.mesh.shape)).collectives
    one = batch // 2 * part * width * 4
    passed = [c for c in found if c.opcode == "collective-permute" and c.axes == ("sequence",)]
    # in each of two layers keys and values go round three times forward, and three back, and
    # their gradients four times
    turns = [c for c in passed if c.bytes == one]
    assert sum(c.total_bytes for c in turns) >= 2 * 2 * (3 + 3 + 4) * one
    for c in found:
        if c.opcode in ("all-gather", "all-to-all") and "sequence" in c.axes:
            assert c.bytes < one, c
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\w+\[([\d,]+)\]", text)}
    whole = [shape for shape in shapes if length in shape and len(shape) > 2 and shape[0] > 1]
    assert not whole
    assert not [shape for shape in shapes if shape[-2:] in ((part, length), (length, length))]

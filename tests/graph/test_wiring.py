"""What wires may be: tuples and places, names of roles, use, and long chains."""

from typing import Literal

import pytest

from fusekit.config import registry
from fusekit.errors import ConfigError
from fusekit.graph import resolve
from fusekit.stream import sequence
from tests.support import toys
from tests.support.toys import ToyStack


def problems(experiment):
    with pytest.raises(ConfigError) as error:
        resolve(experiment)
    return [(".".join(map(str, p.path)), p.message, p.found) for p in error.value.problems]


def adding(into, inputs):
    """Two stacks of four layers, and an operator that reads `inputs`."""
    fusion = {"x": {"type": "toy_add", "inputs": inputs, "into": into}}
    return toys.two_stacks(depth=4, fusion=fusion)


def reads(graph, node, kind="enter"):
    """By place, what an operator reads besides the streams that it edits."""
    found = [e for e in graph.events if (e.kind, e.node) == (kind, node)]
    return [{role: r.key for role, r in e.reads if role.startswith(":")} for e in found]


def test_a_tuple_is_zipped_with_the_places():
    graph = resolve(adding("b@2..3", ["a@0..1"]))
    assert [key.index for place in reads(graph, "x") for key in place.values()] == [0, 1]


def test_a_single_stream_is_given_to_every_place():
    graph = resolve(adding("b@2..3", ["a@0"]))
    assert [key.index for place in reads(graph, "x") for key in place.values()] == [0, 0]


@pytest.mark.parametrize(
    ("into", "inputs", "found"),
    [
        ("b@2..3", ["a@0..2"], "3 in a@0..2, for 2 places"),
        ("b@3", ["a@0+2"], "2 in a@0+2, for 1 place"),
        ("b@1..", {"other": "a@0..1"}, "2 in a@0..1, for 3 places"),
    ],
)
def test_a_tuple_of_another_length(into, inputs, found):
    message = "a tuple gives each place of an operator one stream"
    role = next(iter(inputs)) if isinstance(inputs, dict) else 0
    assert problems(adding(into, inputs)) == [(f"fusion.x.inputs.{role}", message, found)]


@pytest.mark.parametrize("role", ["stream0", "stream1", "raw0", "state", "edit0"])
def test_roles_may_be_called_like_those_of_fusekit(role):
    graph = resolve(adding("b@2", {role: "a@0"}))
    (given,) = reads(graph, "x")
    assert list(given) == [f":{role}"]
    assert given[f":{role}"].node == "a"


def test_an_operator_reads_at_its_own_places_only_what_is_computed_before():
    fusion = {
        "x": {"type": "toy_add", "inputs": ["a@3"], "into": "b@2"},
        "y": {"type": "toy_add", "inputs": ["b@2"], "into": "a@1"},
    }
    found = problems(toys.two_stacks(depth=4, fusion=fusion))
    message = "a layer would wait for itself"
    assert found == [("fusion.x", message, "x <- a@3 <- y <- b@2 <- x")]


def test_an_operator_that_reads_what_it_edits():
    found = problems(adding("a@1", ["a@1"]))
    assert found == [("fusion.x", "a layer would wait for itself", "x <- a@1 <- x")]


def test_places_that_nothing_reads_are_left_out():
    heads = {"h": {"type": "toy_head", "input": "a@1.mean"}}
    losses = {"l": {"type": "toy_square", "prediction": "h", "target": "batch.y"}}
    fusion = {"mix": {"type": "toy_exchange", "into": "a@.."}}
    graph = resolve(toys.one_stack(depth=4, heads=heads, losses=losses, fusion=fusion))
    assert len(graph.nodes["mix"].places) == 2


def test_a_bad_place_does_not_hide_other_faults_nor_cause_any():
    heads = {
        "h": {"type": "toy_head", "input": "a.maen"},
        "g": {"type": "toy_head", "input": "b.last"},
        "k": {"type": "toy_head", "input": "v"},
    }
    fusion = {"mix": {"type": "toy_exchange", "into": ["a@2..", "bb@2.."]}}
    found = [path for path, *_ in problems(toys.two_stacks(fusion=fusion, heads=heads))]
    assert sorted(found) == ["fusion.mix.into.1", "heads.h.input"]


def test_what_only_an_unread_edit_uses_is_told_as_that_edit():
    heads = {"h": {"type": "toy_head", "input": "v"}}
    losses = {"l": {"type": "toy_square", "prediction": "h", "target": "batch.y"}}
    fusion = {"x": {"type": "toy_add", "inputs": ["a@0"], "into": "b@1"}}
    found = problems(toys.two_stacks(heads=heads, losses=losses, fusion=fusion))
    assert found == [("fusion.x.into", "nothing reads what x edits", "b@1")]


@pytest.mark.parametrize(("section", "kind"), [("encoders", "toy_dense"), ("heads", "toy_head")])
def test_a_chain_of_a_thousand_that_each_read_the_next_declared(section, kind):
    count = 1000
    chain = {f"n{k}": {"type": kind, "input": f"n{k + 1}"} for k in range(count)}
    chain[f"n{count}"] = {"type": kind, "input": "a.mean"}
    sections = {
        "encoders": {"a": {"type": "toy_stack"}},
        "heads": {"h": {"type": "toy_head", "input": "n0"}},
    }
    sections[section] = chain | sections[section]
    graph = resolve(toys.one_stack(**sections))
    names = [event.node for event in graph.events]
    assert names.index(f"n{count}") < names.index("n0")


def test_heads_over_heads_know_their_points_whatever_the_order():
    heads = {
        "last": {"type": "toy_head", "input": "middle"},
        "middle": {"type": "toy_head", "input": "first"},
        "first": {"type": "toy_head", "input": "a@0..2.mean"},
    }
    losses = {"l": {"type": "toy_square", "prediction": "last", "target": "batch.y"}}
    graph = resolve(toys.one_stack(heads=heads, losses=losses))
    assert [graph.nodes[name].points for name in heads] == [3, 3, 3]


class Pyramid(ToyStack):
    """Layers that halve in length and, but for the last, double in width."""

    type: Literal["pyramid"] = "pyramid"

    def infer_layer(self, index, stream):
        return sequence(max(stream.length // 2, 1), stream.width * (2 if index < 3 else 1))


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ("@0..2", "a@0.mean 8, a@1.mean 16, a@2.mean 32"),
        ("@0+3", "a@0.mean 8, a@3.mean 32"),
        ("@2..3", None),
    ],
)
def test_points_of_a_head_have_one_width(points, found, monkeypatch):
    monkeypatch.setitem(registry._registered["encoder"], "pyramid", Pyramid)
    heads = {"h": {"type": "toy_head", "input": f"a{points}.mean"}}
    losses = {"l": {"type": "toy_square", "prediction": "h", "target": "batch.y"}}
    model = toys.one_stack(encoders={"a": {"type": "pyramid"}}, heads=heads, losses=losses)
    if found is None:
        assert resolve(model).nodes["h"].points == 2
        return
    message = "a head answers each point with the same weights, and these differ in width"
    assert problems(model) == [("heads.h.input", message, found)]

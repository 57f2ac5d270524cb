"""The graph: order, references, places, and every wiring mistake."""

import pytest

from fusekit.config.reference import INPUT, PointError, layers_of, parse_place, parse_reference
from fusekit.errors import ConfigError
from fusekit.graph import resolve
from fusekit.graph.node import Key
from tests.support import toys


def order(graph):
    return [(e.kind, e.node, e.index) for e in graph.events]


def position(graph, *event):
    return order(graph).index(event)


def test_points():
    assert layers_of("3..", 6) == (3, 4, 5)
    assert layers_of("..2", 6) == (0, 1, 2)
    assert layers_of("-4..", 6) == (2, 3, 4, 5)
    assert layers_of("..", 3) == (0, 1, 2)
    assert layers_of("3../4", 12) == (3, 7, 11)
    assert layers_of("0+4+8", 12) == (0, 4, 8)
    assert layers_of("9..11", 12) == (9, 10, 11)
    assert layers_of("-1", 12) == (11,)
    assert layers_of("input", 12) == (INPUT,)


@pytest.mark.parametrize("point", ["6", "-7", "4..2", "2+1", "3../0", "0+9"])
def test_points_that_do_not_exist(point):
    with pytest.raises(PointError):
        layers_of(point, 6)


@pytest.mark.parametrize("text", ["x", "x@3", "x@input", "x@..", "x@3../4.mean", "batch.a.first"])
def test_references_survive_a_round_trip(text):
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize("text", ["", "@3", "x@", "x.", "x y", "1x", "x@3-4", "x@3...", "a..b"])
def test_what_is_no_reference(text):
    with pytest.raises(ValueError, match="reference"):
        parse_reference(text)


def test_places():
    assert (parse_place("image@3..").stack, parse_place("image@3..").point) == ("image", "3..")
    with pytest.raises(ValueError, match="place"):
        parse_place("image")


def test_lockstep_order():
    graph = resolve(toys.two_stacks(depth=4))
    assert position(graph, "enter", "mix", 0) > position(graph, "layer", "a", 1)
    assert position(graph, "enter", "mix", 0) > position(graph, "layer", "b", 1)
    for place, layer in ((0, 2), (1, 3)):
        for stack in "ab":
            at = position(graph, "layer", stack, layer)
            assert (
                position(graph, "enter", "mix", place) < at < position(graph, "leave", "mix", place)
            )


def test_mutual_reading_is_legal_while_no_layer_waits_for_itself():
    fusion = {
        "x": {"type": "toy_add", "inputs": ["a@1"], "into": "b@2"},
        "y": {"type": "toy_add", "inputs": ["b@2"], "into": "a@3"},
    }
    graph = resolve(toys.two_stacks(depth=4, fusion=fusion))
    assert position(graph, "layer", "a", 1) < position(graph, "layer", "b", 2)
    assert position(graph, "layer", "b", 2) < position(graph, "layer", "a", 3)


def test_a_layer_that_waits_for_itself():
    fusion = {
        "x": {"type": "toy_add", "inputs": ["a@3"], "into": "b@2"},
        "y": {"type": "toy_add", "inputs": ["b@2"], "into": "a@1"},
    }
    with pytest.raises(ConfigError, match="a layer would wait for itself"):
        resolve(toys.two_stacks(depth=4, fusion=fusion))


def test_counts_of_places_are_printed():
    fusion = {"mix": {"type": "toy_exchange", "into": ["a@1..", "b@2.."]}}
    with pytest.raises(ConfigError, match=r"3 in a@1\.\., 2 in b@2\.\."):
        resolve(toys.two_stacks(depth=4, fusion=fusion))


MISTAKES = {
    "fusion": {
        "into: c@1..": "no encoder is called c",
        "into: h@1..": r"h \(toy_head\) has no layers",
        "into: [a@9, b@9]": "layer 9 does not exist",
        "into: [a@1, a@2]": "stands in two places",
    },
    "head": {
        "a.maen": "did you mean: mean",
        "aa.mean": "did you mean: a",
        "a@7.mean": "layer 7 does not exist",
        "batch.aa": "did you mean: batch.a",
        "batch": "batch is read by its ports",
        "y": "y is a modality",
        "g": "itself",
        "a@0..1.mean": None,
    },
}


@pytest.mark.parametrize(("reference", "message"), MISTAKES["head"].items())
def test_mistakes_of_a_head(reference, message):
    heads = {"g": {"type": "toy_head", "input": reference}}
    losses = {"m": {"type": "toy_square", "prediction": "g", "target": "batch.y"}}
    build = lambda: resolve(toys.one_stack(heads=heads, losses=losses))  # noqa: E731
    if message is None:
        assert len(build().outputs_of("g")) == 2
        return
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(("into", "message"), MISTAKES["fusion"].items())
def test_mistakes_of_places(into, message):
    places = into.removeprefix("into: ").strip("[]").split(", ")
    fusion = {"mix": {"type": "toy_exchange", "into": places}}
    with pytest.raises(ConfigError, match=message):
        resolve(toys.two_stacks(depth=4, fusion=fusion))


def test_all_problems_at_once():
    heads = {
        "h": {"type": "toy_head", "input": "aa.mean"},
        "g": {"type": "toy_head", "input": "b.lsat"},
    }
    with pytest.raises(ConfigError) as error:
        resolve(toys.two_stacks(depth=4, heads=heads))
    problems = {".".join(p.path): (p.message, p.nearest) for p in error.value.problems}
    assert problems == {
        "heads.h.input": ("nothing is called aa", ("a",)),
        "heads.g.input": ("b.lsat has no port lsat", ("last",)),
        "losses.k.prediction": ("nothing is called k", ()),
        "encoders.v": ("nothing uses v", ()),
    }
    text = str(error.value)
    assert text.endswith("4 problems found")
    for path, (message, _) in problems.items():
        assert f"{path}: {message}" in text


def test_what_nothing_uses_is_an_error_unless_kept():
    extra = {"a": {"type": "toy_stack"}, "b": {"type": "toy_stack", "input": "batch.b"}}
    with pytest.raises(ConfigError, match="nothing uses b"):
        resolve(toys.one_stack(encoders=extra, modalities_too=("b",)))
    extra["b"]["keep"] = True
    assert (
        Key("out", "b") in resolve(toys.one_stack(encoders=extra, modalities_too=("b",))).signatures
    )

"""A fusion of what heads say is an answer like theirs."""

from types import SimpleNamespace

import numpy as np
import pytest

import fusekit
from fusekit.cli.answers import answers
from fusekit.errors import ConfigError
from fusekit.graph.link import answering, link_of
from fusekit.program import Program
from fusekit.stream import Stream
from fusekit.study.constant import constant_predictor
from tests.study import tiny

HEADS = {
    "l": {"type": "classifier", "input": "left", "classes": 3},
    "r": {"type": "classifier", "input": "right", "classes": 3},
}


def late(heads=HEADS, target="batch.label", loss="cross_entropy", **changes):
    both = {name: {"type": loss, "prediction": name, "target": target} for name in ("l", "r")}
    metric = {"type": "accuracy" if loss == "cross_entropy" else "mae"}
    return tiny.experiment(
        fusion={"y": {"type": "late", "inputs": ["l", "r"]}},
        heads=heads,
        losses=both,
        metrics={"score": {**metric, "prediction": "y", "target": target}},
        **changes,
    )


@pytest.fixture(scope="module")
def graph():
    return fusekit.resolve(late())


def test_late_fusion_takes_the_link_of_its_heads(graph):
    assert answering(graph) == ("l", "r", "y")
    assert [link_of(graph, name) for name in ("l", "y", "left")] == ["softmax", "softmax", "none"]
    several = {"l": HEADS["l"], "r": {**HEADS["r"], "type": "multilabel"}}
    mixed = fusekit.resolve(tiny.experiment(
        fusion={"y": {"type": "late", "inputs": ["l", "r"], "keep": True}}, heads=several,
        losses={"fit": {"type": "cross_entropy", "prediction": "l", "target": "batch.label"}},
        metrics={},
    ))  # fmt: skip
    assert link_of(mixed, "y") == "none"


def test_prediction_gives_the_fused_answer(graph):
    program = Program(graph, steps=2)
    rng = np.random.default_rng(0)
    batch = {n: rng.normal(size=(4, w)).astype("float32") for n, w in (("left", 3), ("right", 2))}
    found = program.predict(program.init(0), batch)
    assert list(found) == ["l", "r", "y"]
    mean = (np.asarray(found["l"].values) + np.asarray(found["r"].values)) / 2
    np.testing.assert_allclose(found["y"].values, mean, rtol=1e-5, atol=1e-6)
    rows = SimpleNamespace(valid=np.ones(4, bool), index=np.arange(4), ids=None)
    for k, line in enumerate(answers(graph, found, rows)):
        chances = np.exp(mean[k]) / np.exp(mean[k]).sum()
        np.testing.assert_allclose(line["y.probabilities"], chances, rtol=1e-5)
        assert line["y.predicted"] == mean[k].argmax()


def test_late_fusion_has_a_constant_to_beat(graph):
    target = np.array([0, 1, 2, 1])
    columns = SimpleNamespace(
        values={"prediction": np.zeros((4, 3)), "target": target}, rows=np.ones(4, bool)
    )
    tested = SimpleNamespace(columns={"score": columns})
    found, _ = constant_predictor(graph.experiment, graph, "score", tested)
    assert found in (0.25, 0.5)  # the share of the class that most training rows have


CLASSES = ["cat", "dog", "owl"]
NAMED = {name: {**head, "classes": CLASSES} for name, head in HEADS.items()}


def named(heads):
    modalities = {
        "left": {"type": "features", "width": 3},
        "right": {"type": "features", "width": 2},
        "label": {"type": "label", "classes": CLASSES},
    }
    return fusekit.resolve(late(heads=heads, modalities=modalities))


@pytest.mark.parametrize("heads", [NAMED, {**NAMED, "l": HEADS["l"]}])
def test_the_fused_answer_names_its_classes(heads):
    graph = named(heads)
    values = np.array([[0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    found = {name: Stream(values) for name in ("l", "r", "y")}
    rows = SimpleNamespace(valid=np.ones(2, bool), index=np.arange(2), ids=None)
    lines = list(answers(graph, found, rows))
    assert [line["y.predicted"] for line in lines] == ["dog", "owl"]


def test_heads_that_name_classes_in_another_order_are_not_averaged():
    heads = {**NAMED, "r": {**HEADS["r"], "classes": CLASSES[::-1]}}
    with pytest.raises(ConfigError) as caught:
        named(heads)
    assert str(caught.value.problems[0]) == (
        "fusion.y.inputs.1: the inputs name their classes differently\n"
        "    found: r: owl, dog, cat\n"
        "    expected: as l has them: cat, dog, owl"
    )

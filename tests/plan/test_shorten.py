"""Graphs with fewer repeats of equal layers, and what they tell of the whole."""

from contextlib import closing

import numpy as np
import pytest

from fusekit.api import load_graph
from fusekit.config.compose import shipped
from fusekit.graph import resolve
from fusekit.graph.unit import UnitId
from fusekit.graph.units import templates
from fusekit.plan.shorten import runs_of, shortened
from fusekit.plan.traced import traced_step
from fusekit.program import Program
from fusekit.train.splits import open_splits
from tests.plan.models import bottleneck, single


def test_runs_are_what_repeats():
    runs = runs_of(resolve(bottleneck()))
    assert [(run.count, {event.node for event in run.repeats[0]}) for run in runs] == [
        (3, {"image"}),
        (3, {"audio"}),
        (3, {"exchange", "image", "audio"}),
    ]


def test_nothing_cut_is_nothing_changed():
    graph = resolve(bottleneck())
    runs = runs_of(graph)
    same = shortened(graph, runs, [run.count for run in runs])
    assert same.events == graph.events
    assert set(templates(same)) == set(templates(graph))


@pytest.mark.slow
def test_what_is_cut_has_no_parameters_and_the_rest_trains():
    graph = resolve(bottleneck())
    short = shortened(graph, runs_of(graph), [1, 2, 1])
    layers = sorted(unit.layer for unit in templates(short) if unit.node == "audio")
    assert layers == [-2, -1, 0, 1, 3]
    assert UnitId("exchange", 1) not in templates(short)
    program = Program(short, layers="unroll", steps=3)
    state = program.init()
    before = program.parameters(state)["audio.layers.3.attention.query.kernel"]
    before = np.array(before)
    with closing(open_splits(graph.experiment)["train"]) as rows:
        state, metrics = program.step(state, next(rows).streams)
    assert np.isfinite(float(metrics["loss"]))
    after = program.parameters(state)["audio.layers.3.attention.query.kernel"]
    assert np.abs(np.asarray(after) - before).max() > 0


@pytest.mark.parametrize("experiment", [bottleneck(), single(depth=5)])
def test_flops_and_weights_of_the_whole_follow_from_short_forms(experiment):
    graph = resolve(experiment)
    runs = runs_of(graph)
    ones = [1] * len(runs)
    base = traced_step(shortened(graph, runs, ones), 8)
    flops, weights, kept = base.flops, base.weights, base.kept
    for number, run in enumerate(runs):
        more = traced_step(
            shortened(graph, runs, [1 + (number == at) for at in range(len(runs))]), 8
        )
        flops += (run.count - 1) * (more.flops - base.flops)
        weights += (run.count - 1) * (more.weights - base.weights)
        kept += (run.count - 1) * (more.kept - base.kept)
    whole = traced_step(graph, 8)
    assert flops == pytest.approx(whole.flops, rel=2e-3)
    assert weights == whole.weights
    assert kept == pytest.approx(whole.kept, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper/bridgetower", "paper/albef", "paper/imp", "x_fusion"])
def test_published_systems_can_be_cut(name):
    _, graph = load_graph(shipped() / "zoo" / f"{name}.yaml")
    runs = runs_of(graph)
    short = shortened(graph, runs, [1] * len(runs))
    least = 1 - 0.3 * bool(runs)
    assert traced_step(short, 4).flops < least * traced_step(graph, 4).flops

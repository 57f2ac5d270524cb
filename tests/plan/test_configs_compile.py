"""Every shipped config through the planner; one through the TPU compiler in a default run is in
`test_plan`."""

import pytest

from fusekit.api import load_graph
from fusekit.config.compose import shipped
from fusekit.config.stages import staged
from fusekit.graph import resolve
from fusekit.plan.analytic import analytic
from fusekit.plan.plan import plan
from fusekit.plan.traced import traced_step
from fusekit.study.spec import with_train
from fusekit_tpu.topology import Topology
from tests.support.often import often

EVERY = sorted(
    str(path.relative_to(shipped()))
    for folder in ("examples", "zoo")
    for path in (shipped() / folder).rglob("*.yaml")
)
PUBLISHED = [name for name in EVERY if "paper" in name]
CONFIGS = [name for name in EVERY if name not in PUBLISHED]
QUICK = [f"zoo/{name}.yaml" for name in ("clip", "lxmert", "mbt", "multimodn", "deq_fusion")]
"""With contrasts, masks, absence, samples that go their own ways, and a loop until it is done."""


def stage_of(name, *overrides):
    """The last stage with 16 rows, and whose step of it."""
    loaded, graph = load_graph(shipped() / name, overrides)
    experiment = next(reversed(staged(loaded.experiment).values()), graph.experiment)
    train = experiment.train
    if train.write:
        pytest.skip("a stage that writes is not planned")
    task = next(iter(train.tasks), None) if train.turns == "alternate" else None
    return with_train(experiment, batch=16), task


@pytest.mark.parametrize("name", often(CONFIGS, QUICK))
def test_formulas_price_its_step(name):
    experiment, task = stage_of(name)
    graph = resolve(experiment)
    traced = traced_step(graph, 16, task)
    cost = analytic(graph, traced, {"data": 2, "fsdp": 2}, Topology.parse("v5e:2x2"))
    assert cost.peak > cost.state > 0
    assert cost.compute > 0


def check_it_compiles(name, topology, sizes, *overrides):
    pytest.importorskip("libtpu")
    experiment, task = stage_of(name, *overrides)
    found = plan(experiment, Topology.parse(topology), sizes=sizes, task=task, both=False)
    cost = found.chosen.cost
    assert found.chosen.fits
    assert cost.peak > cost.state > 0
    assert cost.cycles > 0
    assert found.flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_compiles_for_a_pod(name, topology):
    check_it_compiles(name, topology, {"data": 2, "fsdp": 2})


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5p:2x2x4"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_compiles_for_a_pod(name, topology):
    """Minutes each."""
    check_it_compiles(name, topology, {"fsdp": 16}, "mesh.layers=scan")

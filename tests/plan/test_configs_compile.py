"""Every shipped config through the TPU compiler; one in a default run is in `test_plan`."""

import pytest

from fusekit.api import load_graph
from fusekit.config.compose import shipped
from fusekit.config.stages import staged
from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.plan.compiled import measure
from fusekit.plan.compilers import devices
from fusekit_tpu.topology import Topology

CONFIGS = sorted(
    str(path.relative_to(shipped()))
    for folder in ("examples", "zoo")
    for path in (shipped() / folder).rglob("*.yaml")
    if "paper" not in path.parts
)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_compiles_for_a_pod(name, topology):
    pytest.importorskip("libtpu")
    loaded, graph = load_graph(shipped() / name)
    stages = staged(loaded.experiment)
    if stages:
        graph = resolve(list(stages.values())[-1])
    train = graph.experiment.train
    if train.write:
        pytest.skip("a stage that writes is not planned")
    task = next(iter(train.tasks), None) if train.turns == "alternate" else None
    shape = Topology.parse(topology)
    layout = Layout.of({"data": 2, "fsdp": 2}, devices=devices(shape))
    found = measure(graph, layout, shape, batch=16, task=task)
    assert found.fits
    assert found.peak > found.state > 0
    assert found.cycles > 0

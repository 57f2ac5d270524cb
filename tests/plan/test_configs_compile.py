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

EVERY = sorted(
    str(path.relative_to(shipped()))
    for folder in ("examples", "zoo")
    for path in (shipped() / folder).rglob("*.yaml")
)
PUBLISHED = [name for name in EVERY if "paper" in name]
CONFIGS = [name for name in EVERY if name not in PUBLISHED]


def compiled(name, topology, sizes, **options):
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
    layout = Layout.of(sizes, devices=devices(shape))
    found = measure(graph, layout, shape, batch=16, task=task, **options)
    assert found.fits
    assert found.peak > found.state > 0
    assert found.cycles > 0


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_compiles_for_a_pod(name, topology):
    compiled(name, topology, {"data": 2, "fsdp": 2})


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5p:2x2x4"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_compiles_for_a_pod(name, topology):
    """Minutes each."""
    compiled(name, topology, {"fsdp": 16}, layers="scan")

"""What a GPU computes is what the CPU computes. By hand: `JAX_PLATFORMS=cuda,cpu pytest -m gpu`."""

import jax
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit.program import Program
from tests.support import strategies
from tests.support.training import arrays, distance, gradients

pytestmark = pytest.mark.gpu


def on(platform, graph, **options):
    return Program(graph, layout=Layout.of(devices=jax.devices(platform)[:1]), **options)


def stepped(program, start, batch):
    state, metrics = program.step(program.restored(start), batch)
    return arrays(program.flat(state)), arrays(metrics)


@pytest.mark.parametrize("name", strategies.EXPERIMENTS)
def test_a_gpu_gives_the_loss_and_gradients_of_the_cpu(name):
    graph = strategies.graph(name)
    batch = strategies.batch(graph, 0, garbage=np.nan)
    there, here = on("gpu", graph), on("cpu", graph)
    start = arrays(there.flat(there.init(0)))
    with jax.default_matmul_precision("highest"):
        state, metrics = stepped(there, start, batch)
    expected, alone = stepped(here, start, batch)
    np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-5)
    assert distance(gradients(state), gradients(expected)) < 1e-4


@pytest.mark.parametrize("name", strategies.EXPERIMENTS)
def test_replicas_side_by_side_are_each_the_seed_alone(name):
    graph = strategies.graph(name)
    batch = strategies.batch(graph, 0)
    many, one = on("gpu", graph, replicas=3, mode="vmap"), on("gpu", graph)
    with jax.default_matmul_precision("highest"):
        state, _ = many.step(many.init(4), batch)
        alone, _ = one.step(one.init(6), batch)
    found = gradients(arrays(one.flat(many.replica(state, 2))))
    assert distance(found, gradients(arrays(one.flat(alone)))) < 1e-4

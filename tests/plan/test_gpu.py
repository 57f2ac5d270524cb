"""Plans for GPUs, by their real compiler where JAX's CUDA plugin is installed."""

from importlib.util import find_spec

import pytest

from fusekit.plan import Cache, planned, render
from fusekit.plan import compilers as compilers_module
from fusekit.plan.compiled import _waits
from fusekit.plan.gpus import PLUGINS, target_config
from fusekit.plan.hlo.costs import Costs
from fusekit_tpu.chips import CHIPS
from fusekit_tpu.topology import Topology
from tests.plan.models import single

TWO = Topology.parse("h100:2")
INSTALLED = any(map(find_spec, PLUGINS))


def test_a_gpu_is_described_with_the_figures_of_its_chip():
    text = target_config(CHIPS["h200"])
    assert "  device_memory_size: 141000000000\n" in text
    assert "  memory_bandwidth: 4800000000000\n" in text
    assert "  shared_memory_per_block_optin: 232448\n" in text
    assert text.count("{") == text.count("}")


def test_without_the_plugin_it_says_so(monkeypatch):
    monkeypatch.setattr(compilers_module, "find_spec", lambda name: None)
    plan = planned(single(depth=2), TWO)
    assert plan.chosen.how == "analytic"
    assert "JAX's CUDA plugin is not installed: pip install 'fusekit[gpu]'" in render(plan)


def test_kernels_wait_for_the_longer_of_flops_and_bytes():
    # an h100 reaches 798 TFLOP/s and 3000 GB/s
    kernels = ((798 * 10**9, 0), (798 * 10**9, 3000 * 10**6), (0, 3000 * 10**6))
    found = Costs(0, {}, {}, 0, {}, {}, 0, 0, kernels, (), {})
    assert _waits(found, TWO) == pytest.approx(3e-3)


@pytest.mark.skipif(not INSTALLED, reason="JAX's CUDA plugin is not installed")
def test_a_real_gpu_compiler_prices_a_step(tmp_path):
    plan = planned(single(depth=2), TWO, both=False, cache=Cache(tmp_path))
    cost, traced = plan.chosen.cost, plan.flops
    assert plan.chosen.how == "compiled"
    assert plan.chosen.fits
    assert cost.cycles == 0
    assert plan.chosen.times.compute == cost.compute > 0
    assert cost.peak > cost.state > 0
    assert cost.flops == pytest.approx(traced / 2, rel=0.25)  # products alone, on two GPUs
    assert {axes for axes, size in cost.ici.items() if size > 100} == {("data",)}
    assert "the GPU compiler estimates no cycles" in render(plan)

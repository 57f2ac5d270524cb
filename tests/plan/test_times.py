"""How long a step takes, worked by hand."""

import pytest

from fusekit.plan.compiled import Measure, kernel_cycles
from fusekit.plan.hlo.products import Declared
from fusekit.plan.times import fits, limit, times, utilisation
from fusekit_tpu.topology import Topology

V5E = Topology.parse("v5e:4x4")


def test_cycles_over_the_clock_and_bytes_over_links():
    # v5e: 1.5 GHz; 45 GB/s a link, a ring sends over two; 819 GB/s of memory
    cost = Measure(cycles=3e6, flops=197e9, hbm=819e6, ici={("data",): 9e7, ("fsdp",): 9e7})
    found = times(cost, V5E)
    assert found.compute == pytest.approx(2e-3)
    assert found.ici == pytest.approx(2e-3)
    assert found.dcn == 0.0
    assert found.shortest == pytest.approx(2e-3)
    assert found.longest == pytest.approx(4e-3)
    assert found.bound == "compute"
    assert utilisation(cost, found.shortest, V5E) == pytest.approx(0.5)


def test_without_cycles_the_longer_of_compute_and_memory():
    found = times(Measure(flops=197e9, hbm=819e6 * 3), V5E)
    assert found.compute == pytest.approx(3e-3)
    assert found.bound == "HBM"


def test_a_collective_along_two_axes_sends_over_four_links():
    assert times(Measure(ici={("data", "fsdp"): 18e7}), V5E).ici == pytest.approx(1e-3)


def test_slices_share_the_network_of_their_machine():
    # 100 Gbit/s a machine of four chips: 3.125 GB/s a chip
    two = Topology.parse("v5e:4x4", slices=2)
    found = times(Measure(dcn={("data",): 3.125e6}), two)
    assert found.dcn == pytest.approx(1e-3)
    assert found.bound == "DCN"
    assert times(Measure(dcn={("data",): 3.125e6}), V5E).dcn == 0.0


def test_what_fits():
    room = limit(V5E)
    assert room == 15.75 * 2**30
    assert fits(Measure(peak=room * 2, fits=True), V5E)
    assert not fits(Measure(peak=1.0, fits=False), V5E)
    assert fits(Measure(peak=0.9 * room, fits=None), V5E)
    assert not fits(Measure(peak=0.97 * room, fits=None), V5E)


def test_kernels_cost_their_products_or_bytes_and_their_exponentials():
    # at 1.5 GHz: 197e12 / 1.5e9 operations, 819e9 / 1.5e9 bytes and 160 exponentials a cycle
    assert kernel_cycles(Declared(197_000_000_000, 0, 819), V5E) == 1_500_000
    assert kernel_cycles(Declared(131, 16_000, 819_000_000), V5E) == 1_500_100
    assert kernel_cycles(Declared(), V5E) == 0

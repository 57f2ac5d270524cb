"""The table of chips, against figures of other pages than those that it was made from."""

import pytest

from fusekit_tpu.chips import CHIPS, GIB

TPUS = [chip for chip in CHIPS.values() if chip.platform == "tpu"]


@pytest.mark.parametrize(
    ("name", "ridge"),
    [
        ("v4", 229),
        ("v5e", 240),
        ("v5p", 166),
        ("v6e", 560),
        ("7x", 313),
        ("h100", 295),
        ("h200", 206),
    ],
)
def test_ridge(name, ridge):
    assert CHIPS[name].ridge == pytest.approx(ridge, rel=0.005)


@pytest.mark.parametrize(
    ("name", "units", "side"), [("v5e", 4, 128), ("v5p", 8, 128), ("v6e", 4, 256)]
)
def test_the_peak_is_what_the_matrix_units_do_at_the_clock(name, units, side):
    chip = CHIPS[name]
    assert chip.clock is not None
    assert units * side**2 * 2 * chip.clock == pytest.approx(chip.flops, rel=0.005)


@pytest.mark.parametrize(("name", "petaflops"), [("v5e", 50.63), ("v6e", 234.9)])
def test_a_pod_has_the_peak_that_is_published_of_it(name, petaflops):
    assert 256 * CHIPS[name].flops == pytest.approx(petaflops * 1e15, rel=0.005)


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("v5e", 400), ("v5p", 1200), ("v6e", 800), ("7x", 1200)]
)
def test_links_give_nine_tenths_of_what_is_advertised_in_both_directions(name, gigabytes):
    rate = CHIPS[name].ici_rate
    assert rate is not None
    assert 2 * rate / (gigabytes * 1e9) == pytest.approx(1.0 if name == "7x" else 0.9, rel=1e-6)


@pytest.mark.parametrize(("name", "terabytes"), [("v5e", 1.6), ("v6e", 3.2)])
def test_links_give_nine_tenths_of_the_bisection_that_is_published_of_a_pod(name, terabytes):
    """A torus of 16 x 16 is cut through twice 16 links."""
    rate = CHIPS[name].link_rate
    assert rate is not None
    assert 2 * 16 * rate / (terabytes * 1e12) == pytest.approx(0.9, rel=1e-6)


@pytest.mark.parametrize(("name", "terabits"), [("v5e", 6.4), ("v6e", 25.6)])
def test_the_machines_of_a_pod_have_the_network_that_is_published_of_it(name, terabits):
    chip = CHIPS[name]
    assert chip.host_rate is not None
    assert 256 // chip.chips_per_host * chip.host_rate * 8 == pytest.approx(terabits * 1e12)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_the_compiler_grants_most_of_a_devices_memory(chip):
    if chip.usable is not None:
        share = chip.usable * chip.devices / chip.hbm
        assert 0.95 < share < 1
    assert CHIPS[chip.name] is chip


def test_a_chip_has_two_links_in_every_dimension_of_its_torus():
    assert TPUS
    for chip in TPUS:
        assert chip.torus is not None
        assert chip.links == 2 * len(chip.torus), chip.name


def test_memory_is_in_the_unit_of_its_maker():
    assert CHIPS["v5e"].hbm == 16 * GIB == 17_179_869_184
    assert CHIPS["h200"].hbm == 141_000_000_000

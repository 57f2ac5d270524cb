"""Backends are chosen by name or in order, and say why."""

import jax
import pytest

from fusekit.layout import Layout
from fusekit_modules.ops import BackendError, Target, choose

CAN = {"gpu": lambda: "the target is a CPU", "xla": lambda: None, "reference": lambda: None}


class Device:
    def __init__(self, platform, kind, capability=None):
        self.platform, self.device_kind, self.compute_capability = platform, kind, capability


def test_auto_takes_the_first_that_can_and_says_why():
    choice = choose("attention", "auto", CAN)
    assert choice.backend == "xla"
    assert str(choice) == "attention: xla; not gpu: the target is a CPU"


def test_a_backend_asked_for_by_name_fails_with_its_reason():
    assert choose("attention", "reference", CAN).backend == "reference"
    with pytest.raises(BackendError, match="cannot use the backend gpu: the target is a CPU"):
        choose("attention", "gpu", CAN)
    with pytest.raises(BackendError, match=r"no backend xIa.*did you mean xla"):
        choose("attention", "xIa", CAN)
    with pytest.raises(BackendError, match="no backend of attention can: gpu: the target"):
        choose("attention", "auto", {"gpu": CAN["gpu"]})


@pytest.mark.parametrize(
    ("device", "target"),
    [
        (Device("tpu", "TPU v5 lite"), Target("tpu", generation="v5e")),
        (Device("tpu", "TPU v5"), Target("tpu", generation="v5p")),
        (Device("tpu", "TPU v6 lite"), Target("tpu", generation="v6e")),
        (Device("gpu", "NVIDIA H100 80GB HBM3", "9.0"), Target("gpu", capability=(9, 0))),
    ],
)
def test_a_target_is_read_off_a_device(device, target):
    assert Target.of(device) == target


def test_a_target_is_read_off_a_layout_and_its_mesh():
    layout = Layout.of(devices=jax.devices()[:1])
    assert Target.of(layout) == Target.of(layout.mesh) == Target("cpu")

"""Topologies: what they count, what they are called, and which are refused."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from fusekit_tpu.chips import CHIPS
from fusekit_tpu.topology import Topology, TopologyError, shapes

NUMBERS = [
    # text, slices, chips, devices, hosts, chips of a host
    ("v5e:16x16", 1, 256, 256, 64, 4),
    ("v5e:16x16", 2, 512, 512, 128, 4),
    ("v5e:2x4", 1, 8, 8, 1, 8),
    ("v6e:1x1", 1, 1, 1, 1, 1),
    ("v6e:2x2", 1, 4, 4, 1, 4),
    ("v4:4x4x8", 1, 128, 128, 32, 4),
    ("v5p:2x2x1", 1, 4, 4, 1, 4),
    ("v5p:8x8x8", 1, 512, 512, 128, 4),
    ("7x:4x4x4", 1, 64, 128, 16, 4),
    ("h200:8", 1, 8, 8, 1, 8),
    ("h200:8x4", 1, 32, 32, 4, 8),
    ("h100:2", 1, 2, 2, 1, 2),
]


@pytest.mark.parametrize(("text", "slices", "chips", "devices", "hosts", "each"), NUMBERS)
def test_counts(text, slices, chips, devices, hosts, each):
    topology = Topology.parse(text, slices=slices)
    found = (topology.chips, topology.devices, topology.hosts, topology.chips_per_host)
    assert found == (chips, devices, hosts, each)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("v5e:16x16", "v5litepod-256"),
        ("v5e:4x4", "v5litepod-16"),
        ("v5p:4x4x4", "v5p-128"),
        ("v6e:16x16", "v6e-256"),
        ("v4:2x2x1", "v4-8"),
        ("7x:4x4x4", "tpu7x-128"),
    ],
)
def test_accelerator_types(text, kind):
    assert Topology.parse(text).accelerator_type == kind


def test_a_gpu_has_no_accelerator_type():
    with pytest.raises(TopologyError, match="a GPU has no accelerator type"):
        _ = Topology.parse("h200:8").accelerator_type


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("v5e:4x8", {"gke-tpu-accelerator": "tpu-v5-lite-podslice", "gke-tpu-topology": "4x8"}),
        ("v5p:4x4x8", {"gke-tpu-accelerator": "tpu-v5p-slice", "gke-tpu-topology": "4x4x8"}),
        ("v6e:8x8", {"gke-tpu-accelerator": "tpu-v6e-slice", "gke-tpu-topology": "8x8"}),
        ("v4:4x4x4", {"gke-tpu-accelerator": "tpu-v4-podslice", "gke-tpu-topology": "4x4x4"}),
        ("7x:2x2x1", {"gke-tpu-accelerator": "tpu7x", "gke-tpu-topology": "2x2x1"}),
        ("h200:8x4", {"gke-accelerator": "nvidia-h200-141gb"}),
    ],
)
def test_nodes(text, labels):
    due = {f"cloud.google.com/{label}": value for label, value in labels.items()}
    assert Topology.parse(text).node_selector == due


@pytest.mark.parametrize("name", CHIPS)
def test_every_shape_parses_and_fills_its_machines(name):
    for shape in shapes(name):
        topology = Topology.parse(f"{name}:{'x'.join(map(str, shape))}")
        assert topology.shape == shape
        assert topology.hosts_per_slice * topology.chips_per_host == topology.chips


@pytest.mark.parametrize(
    ("name", "most"), [("v4", 4096), ("v5p", 6144), ("7x", 9216), ("v5e", 256)]
)
def test_the_largest_slice_is_the_largest_that_is_published(name, most):
    largest = shapes(name)[-1]
    assert Topology.parse(f"{name}:{'x'.join(map(str, largest))}").chips == most
    assert len(set(shapes(name))) == len(shapes(name))


REFUSED = [
    (
        "v5e:16x15",
        "v5e has no such shape\n    found: 16x15\n"
        "    expected: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16\n"
        "    did you mean: v5e:16x16, v5e:8x16, v5e:8x8",
    ),
    (
        "v5p:8x4x4",
        "v5p has no such shape\n    found: 8x4x4\n"
        "    expected: 2x2x1, 2x2x2, 2x2x4, 2x4x4, or ascending multiples of 4"
        " with at most 6144 chips\n    did you mean: v5p:4x4x8, v5p:4x4x12, v5p:4x4x4",
    ),
    (
        "v5:16x16",
        "there is no such chip\n    found: v5\n"
        "    expected: v4, v5e, v5p, v6e, 7x, h100, h200\n    did you mean: v5p, v5e, v4",
    ),
    (
        "h200:4x2",
        "h200 has no such shape\n    found: 4x2\n"
        "    expected: 1, 2, 4, 8, or 8xMACHINES from 2 machines on\n"
        "    did you mean: h200:8, h200:4, h200:8x2",
    ),
    (
        "v6e",
        "v6e has no such shape\n    expected: v6e:sizes, as 4x4\n"
        "    did you mean: v6e:1x1, v6e:2x2, v6e:2x4",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals(text, message):
    with pytest.raises(TopologyError) as refused:
        Topology.parse(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "text", ["v5e:16*16", "v5e:0x4", "v5e:-4x4", "v5e:4x4x4x4", "v5p:4x4", ":4x4"]
)
def test_what_is_no_shape_is_refused_too(text):
    with pytest.raises(TopologyError):
        Topology.parse(text)


def test_slices():
    with pytest.raises(TopologyError, match="no such number of slices\n    found: 0"):
        Topology.parse("v5e:4x4", slices=0)
    with pytest.raises(TopologyError, match="as h200:8x4"):
        Topology.parse("h200:8", slices=2)
    assert str(Topology.parse("v5e:4x4", slices=2)) == "v5e:4x4 in 2 slices"


def test_names_for_ahead_of_time_compilation():
    assert Topology.parse("v5e:16x16", slices=2).pjrt == ("v5e:16x16", {"num_slices": 2})
    assert Topology.parse("7x:2x2x1").pjrt == ("tpu7x:2x2x1", {})
    assert Topology.parse("v6e:1x1").pjrt == ("v6e:1x1", {"chips_per_host_bounds": (1, 1, 1)})
    assert Topology.parse("h200:8x4").pjrt == ("h200", {"topology": "1x4x8"})


ASK = """
import json, sys
from jax.experimental import topologies
for name, options in json.loads(sys.argv[1]):
    devices = topologies.get_topology_desc(name, platform="tpu", **options).devices
    print(len(devices), len({device.process_index for device in devices}))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_the_compiler_knows_these_names_and_counts_alike():
    """v4 is left out: compiled for ahead of time, each of its cores is a device."""
    texts = ["v5e:2x2", "v5e:16x16", "v5p:2x2x1", "v5p:4x4x8", "v6e:1x1", "v6e:8x16", "7x:2x2x1"]
    known = [Topology.parse(text) for text in texts]
    environment = {
        **os.environ,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([topology.pjrt for topology in known])],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=120,
    )
    due = [f"{topology.devices} {topology.hosts}" for topology in known]
    assert done.stdout.splitlines() == due

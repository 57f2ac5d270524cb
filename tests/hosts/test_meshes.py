"""Over several hosts everything is as on one: losses, metrics, the order of rows."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fusekit.errors import LayoutError
from fusekit.hosts import rows
from fusekit.layout import Layout
from tests.hosts import measure
from tests.hosts.group import Group, succeeded

PAIRS = ("mesh.tensor=2", "mesh.expert=2")
"""Beside that of data, which `test_train` trains on; `fsdp` takes its time."""
FOURS = (
    "mesh.data=-1",
    "mesh.data=2 mesh.fsdp=2",
    "mesh.data=2 mesh.tensor=2",
    "mesh.fsdp=2 mesh.expert=2",
)


def check(tmp_path, alone, meshes, hosts, start):
    with Group(tmp_path, measure.__file__, "found", start, *meshes, hosts=hosts) as group:
        succeeded(group.wait())
    every = [json.loads((tmp_path / f"found-{k}.json").read_text()) for k in range(hosts)]
    assert all(found == every[0] for found in every)
    for mesh in meshes:
        found = every[0][mesh]
        for step, (one, other) in enumerate(zip(alone["steps"], found["steps"], strict=True)):
            for name, value in one.items():
                rtol = 1e-4 if name == "gradient_norm" else 1e-5
                message = f"{mesh}: {name} of step {step}"
                np.testing.assert_allclose(other[name], value, rtol=rtol, err_msg=message)
        assert found["index"] == alone["index"], mesh
        assert sorted(set(found["index"])) == found["index"], mesh
        assert found["metrics"].keys() == alone["metrics"].keys()
        for name, value in alone["metrics"].items():
            np.testing.assert_allclose(found["metrics"][name], value, rtol=1e-5, err_msg=mesh)
        for role, values in alone["columns"].items():
            np.testing.assert_allclose(found["columns"][role], values, atol=1e-5, err_msg=mesh)


@pytest.mark.slow
def test_two_hosts_are_as_one(tmp_path, alone):
    check(tmp_path, alone, PAIRS, 2, "same")


@pytest.mark.slow
def test_four_hosts_are_as_one(tmp_path, alone):
    check(tmp_path, alone, FOURS, 4, "fresh")


@pytest.mark.slow
def test_two_hosts_make_the_same_state(tmp_path, alone):
    check(tmp_path, alone, ("mesh.fsdp=2", *PAIRS), 2, "fresh")


def test_a_mesh_must_have_work_for_every_host(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    devices = [SimpleNamespace(process_index=k) for k in (0, 0, 2)]
    layout = SimpleNamespace(mesh=SimpleNamespace(devices=np.array(devices)), size=3)
    with pytest.raises(LayoutError, match=r"the mesh has 3 of 8 devices, none of them on host 1:"):
        rows.check_hosts(layout)
    devices[1].process_index = 1
    rows.check_hosts(layout)


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(LayoutError, match="a batch of 6 does not divide over 4 parts of the mesh"):
        rows.share(Layout.of({"data": 4}), 6)

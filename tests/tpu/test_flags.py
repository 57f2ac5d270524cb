"""Flags: told with reason and source, chosen by chip and layout, known to the compilers."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from fusekit_tpu.chips import CHIPS
from fusekit_tpu.flags import GPU, SETS, TPU, chosen, environment
from fusekit_tpu.topology import Topology

SOURCE = re.compile(r"(\[(maxtext|v5e|v5p|guide|jax)\] ?)+")


def names(text, mesh, slices=1, offload=False):
    topology = Topology.parse(text, slices=slices)
    return [each.name for each in chosen(topology, mesh, offload=offload)]


def test_every_flag_says_why_and_where_it_is_documented():
    assert len({each.name for each in SETS}) == len(SETS)
    for each in SETS:
        assert each.why
        assert set(each.chips) <= set(CHIPS)
        platforms = {CHIPS[chip].platform for chip in each.chips}
        assert platforms == {"tpu" if each.variable == TPU else "cuda"}
        for flag in each.flags:
            assert re.fullmatch(r"xla_[a-z_]+", flag.name)
            assert flag.why
            assert SOURCE.fullmatch(flag.source), flag


def test_one_flag_has_one_value_wherever_it_stands():
    values = {}
    for each in SETS:
        for flag in each.flags:
            assert values.setdefault(flag.name, flag.value) == flag.value


@pytest.mark.parametrize(
    ("text", "mesh", "slices", "due"),
    [
        ("v5e:16x16", {"fsdp": 256}, 1, ["async_all_gather"]),
        ("v5e:16x16", {"data": 16, "fsdp": 16}, 1, ["async_all_gather", "data_parallel_overlap"]),
        ("v5e:16x16", {"fsdp": 512}, 2, ["async_all_gather", "data_parallel_overlap"]),
        ("v5e:16x16", {"tensor": 256}, 1, []),
        ("v5p:4x4x4", {"tensor": 64}, 1, ["async_all_reduce", "async_permute"]),
        ("v5e:1x1", {}, 1, []),
        ("7x:4x4x4", {"fsdp": 128}, 1, []),
        ("h200:8", {"data": 8}, 1, ["gpu_latency_hiding"]),
        ("h200:1", {}, 1, []),
    ],
)
def test_chosen_by_chip_and_layout(text, mesh, slices, due):
    assert names(text, mesh, slices) == due


def test_host_offload_only_where_the_program_does_it():
    assert names("v6e:4x4", {"data": 16}) == ["data_parallel_overlap"]
    assert names("v6e:4x4", {"data": 16}, offload=True) == ["data_parallel_overlap", "host_offload"]


def test_a_flag_of_several_sets_comes_once():
    both = chosen(Topology.parse("v5p:4x4x4"), {"fsdp": 8, "tensor": 8})
    flags = environment(both)[TPU].split()
    assert "--xla_tpu_enable_async_collective_fusion=true" in flags
    assert len(set(flags)) == len(flags) == 8
    assert environment([]) == {}


def accepted(variable, flags, code):
    """Whether a fresh process comes up with the flags; an unknown one ends it."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            variable: flags,
        },
        check=False,
        timeout=120,
    )
    return done.stdout.strip() == "up"


def test_xla_knows_the_flags_for_gpus():
    flags = environment(each for each in SETS if each.variable == GPU)[GPU]
    code = "import jax; jax.devices(); print('up')"
    assert accepted(GPU, flags, code)
    assert not accepted(GPU, flags.replace("latency", "latensy"), code)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_libtpu_knows_the_flags_for_tpus():
    flags = environment(each for each in SETS if each.variable == TPU)[TPU]
    code = (
        "from jax.experimental import topologies\n"
        "topologies.get_topology_desc('v5e:2x2', platform='tpu')\n"
        "print('up')"
    )
    assert accepted(TPU, flags, code)
    assert not accepted(TPU, f"{flags} --xla_no_such_flag=true", code)

"""The low-rank product through the real TPU compiler, for chips that are not here."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import SingleDeviceSharding

from fusekit.context import Context
from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit.stream import Stream, vector
from fusekit_modules.fusion.low_rank_tensor import LowRankTensorSpec
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.low_rank import cases, low_rank
from fusekit_tpu.topology import Topology

pytest.importorskip("libtpu")
ROOT = Path(__file__).parents[3]
BUDGET = 25726
"""Bundles of one program of the forward kernel on v5e, libtpu 0.0.42.1: with 64 of them and at 1.5
GHz, 1.10 ms by estimate."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def device(topology):
    return devices(Topology.parse(topology))[0]


def compiled(case, dtype, device, backend):
    where = SingleDeviceSharding(device)
    given = jax.eval_shape(lambda: cases.arrays(case, dtype))
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), given)
    options = {"target": Target.of(device), "backend": backend}
    return jax.jit(lambda given: low_rank(*given, **options)).lower(given).compile()


@pytest.mark.parametrize(
    ("topology", "dtype", "widths", "out"),
    [
        ("v5e:2x2", "bfloat16", (768, 768), 512),
        ("v5p:2x2x1", "float32", (74, 35, 300), 100),
        ("v6e:2x2", "bfloat16", (74, 35, 300), 100),
    ],
)
def test_the_kernel_compiles_with_ragged_sizes_too(topology, dtype, widths, out):
    case = cases.Case("one", 1000, widths, 2, out)
    program = compiled(case, dtype, device(topology), "tpu")
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 1
    if dtype == "bfloat16" and out == 512:
        assert program.memory_analysis().temp_size_in_bytes < 1 << 20


def test_the_component_asks_for_the_kernel_by_name_alone():
    v5e = device("v5e:2x2")
    module = LowRankTensorSpec(width=128, rank=2).build(
        {"a": vector(128), "b": vector(64)}, rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(module)

    def call(context, state, a, b):
        return nnx.merge(graph, state)({"a": Stream(a), "b": Stream(b)}, context=context).values

    where = SingleDeviceSharding(v5e)
    given = (state, jnp.zeros((16, 128)), jnp.zeros((16, 64)))
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), given)
    for kernel, count in (("auto", 0), ("xla", 0), ("reference", 0), ("pallas", 1)):
        context = Context(path="joint", device=v5e, kernel=kernel)
        text = jax.jit(partial(call, context)).lower(*given).compile().as_text()
        assert text.count('custom_call_target="tpu_custom_call"') == count
    context = Context(path="joint", device=jax.devices()[0], kernel="pallas")
    with pytest.raises(BackendError, match="there are no kernels for CPUs"):
        jax.eval_shape(partial(call, context), *given)


@pytest.mark.slow
def test_estimates_are_ahead_of_all_at_once():
    """Of 4096 rows, four modalities of 768, rank 16 and 512 features."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.ops_low_rank_tpu", "--cases", "0"],
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(found.stdout.splitlines()[-1])["features"]
    for direction, ahead in (("forward", 1.8), ("both", 1.05)):
        naive, scan, kernel = (report[f"{direction} {how}"] for how in ("at once", "xla", "tpu"))
        assert scan["temp_mib"] < 4
        assert kernel["temp_mib"] < 1
        assert naive["temp_mib"] > 100
        assert naive["ms"] / scan["ms"] > ahead
        assert kernel["ms"] < scan["ms"]
        (bundles,) = (k["bundles"] for k in kernel["kernels"].values())
        assert 0.5 * BUDGET < bundles < 1.05 * BUDGET

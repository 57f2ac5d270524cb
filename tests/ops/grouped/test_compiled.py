"""Megablox through the real compiler, for chips that are not here; and tokamax's around a stand-in
and, where the package is installed, through it."""

import sys
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit_modules.ops import Target, optional
from fusekit_modules.ops.grouped_product import cases, grouped_product, tokamax
from fusekit_tpu.topology import Topology
from tests.ops.grouped.exact import off, product


def outcome(options, rows, sizes, weights, grad):
    out, back = jax.vjp(lambda r, w: grouped_product(r, sizes, w, **options), rows, weights)
    return out, back(grad)


def compiled(case, topology, backend, dtype=jnp.bfloat16):
    chip = devices(Topology.parse(topology))[0]
    where = SingleDeviceSharding(chip)

    def shape(*sizes, dtype=dtype):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    groups = len(case.sizes)
    given = (
        shape(case.rows, case.width),
        shape(groups, dtype=jnp.int32),
        shape(groups, case.width, case.out),
        shape(case.rows, case.out),
    )
    options = {"target": Target.of(chip), "backend": backend}
    with jax.default_device(chip):
        return jax.jit(partial(outcome, options)).lower(*given).compile()


@pytest.fixture
def compilers(monkeypatch):
    pytest.importorskip("libtpu")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("topology", "case", "dtype"),
    [
        ("v5e:2x2", cases.Case("", (500, 0, 700, 300), 256, 384), jnp.bfloat16),
        *[
            pytest.param(chip, case, dtype, marks=pytest.mark.slow)
            for chip in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
            for case in cases.TIMED
            for dtype in (jnp.bfloat16, jnp.float32)
        ],
    ],
)
def test_megablox_compiles_both_passes(compilers, topology, case, dtype):
    program = compiled(case, topology, "tpu", dtype)
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3
    # masked and filled up rows and gradients, at the most
    size = 2 * jnp.dtype(dtype).itemsize * (case.rows + 512) * (case.width + case.out)
    assert program.memory_analysis().temp_size_in_bytes < size + (4 << 20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tokamax_compiles(compilers):
    pytest.importorskip("tokamax", reason="tokamax is not installed")
    program = compiled(cases.TIMED[0], "v5e:2x2", "tokamax")
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_what_stands_around_tokamax(platform, monkeypatch):
    asked = []

    def ragged_dot(rows, weights, sizes, *, implementation):
        asked.append(implementation)
        out = jax.lax.ragged_dot(rows, weights, sizes)
        there = jnp.arange(len(rows)) < jnp.sum(sizes)
        return jnp.where(there[:, None], out, jnp.nan)  # what it does not write may be anything

    module = ModuleType("tokamax")
    module.ragged_dot = ragged_dot
    monkeypatch.setitem(sys.modules, "tokamax", module)
    monkeypatch.setattr(optional, "find_spec", lambda name: module)
    target = Target("gpu", capability=(9, 0)) if platform == "gpu" else Target("tpu", "v5e")
    given = cases.arrays(cases.TESTED[3])
    out, grads = jax.jit(partial(outcome, {"target": target, "backend": "tokamax"}))(*given)
    due, owed = product(*given)
    assert off(out, due) < 1e-5
    assert all(off(one, other) < 1e-5 for one, other in zip(grads, owed, strict=True))
    assert np.all(np.isfinite(out))
    assert set(asked) == {tokamax.KERNELS[platform]}

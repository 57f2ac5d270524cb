"""The Mosaic kernels: interpreted, against float64; and through the real compiler, never run.

Bundles were counted with libtpu 0.0.42.1.
"""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.layout import Layout
from fusekit_modules.ops import Target
from fusekit_modules.ops.selective_scan import cases, tpu
from fusekit_modules.ops.selective_scan.form import given_of
from tests.ops.selective_scan import exact
from tests.ops.selective_scan.calls import both, check, slopes
from tests.support.scan_bundles import looped

ROOT = Path(__file__).parents[3]
BUDGET = {"selective_scan_forward": 2856, "selective_scan_backward": 9600}
"""Of one program on v5e, for Mamba of 130 million parameters, loops as often as they turn: with 384
programs and 1.5 GHz, 0.73 ms and 2.46 ms by estimate."""
KEPT = 8 * 16 * 16 * 1536 * 4
"""Bytes of the states before every chunk."""
V5E, CPU = Target("tpu", "v5e"), Target("cpu")
INTERPRETED = replace(V5E, interpret=True)


@pytest.mark.parametrize("missing", ["some", "all"])
def test_a_chunk_that_is_not_full(missing):
    check(replace(cases.INTERPRETED[0], missing=missing), jnp.float32, target=INTERPRETED)


@pytest.mark.slow
def test_lengths_channels_and_sizes_that_divide_by_nothing():
    check(cases.INTERPRETED[1], jnp.float32, target=INTERPRETED)


@pytest.mark.slow
def test_half_precision_of_two_programs_by_channels(monkeypatch):
    monkeypatch.setattr(tpu, "REGISTERS", 16 * 128)
    given, _ = cases.arrays(cases.INTERPRETED[2], jnp.bfloat16)
    assert tpu.programs(given_of(**given, reset=None, valid=None)) == 4
    check(replace(cases.INTERPRETED[2], missing="some"), jnp.bfloat16, target=INTERPRETED)


def test_what_is_absent_may_hold_anything():
    case = replace(cases.INTERPRETED[0], missing="some")
    given, options = cases.arrays(case)
    absent = ~np.asarray(options["valid"])[..., None]
    other = {
        name: jnp.where(absent, 1e30, array) if name in ("x", "delta", "into", "out") else array
        for name, array in given.items()
    }
    run = jax.jit(lambda given, grads: both(given, options, grads, target=INTERPRETED))
    grads = slopes(case)
    first, second = run(given, grads), run(other, grads)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.slow
def test_a_decay_of_nothing_is_still_forgotten():
    given, options = cases.arrays(cases.INTERPRETED[0])
    given = {**given, "a": jnp.zeros_like(given["a"])}
    grads = slopes(cases.INTERPRETED[0])
    due = both(given, options, grads, target=CPU)
    found = both(given, options, grads, target=INTERPRETED)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < 1e-5


@pytest.mark.slow
def test_over_a_mesh_each_device_has_its_rows_and_channels():
    layout = Layout.of({"data": 2, "fsdp": 2, "tensor": 2})
    case = replace(cases.INTERPRETED[0], batch=4, time=9, channels=256, missing="some")
    given, options = cases.arrays(case)
    grads = slopes(case)
    due = both(given, options, grads, target=CPU)
    cut = NamedSharding(layout.mesh, P(("data", "fsdp"), None, "tensor"))
    placed = {**given, **{name: jax.device_put(given[name], cut) for name in ("x", "delta")}}
    found = both(placed, options, grads, target=INTERPRETED, layout=layout)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < 1e-5


@pytest.mark.slow
def test_mapped_over_a_leading_axis():
    pairs = [cases.arrays(cases.INTERPRETED[0], seed=seed)[0] for seed in (1, 2)]
    options, grads = cases.arrays(cases.INTERPRETED[0])[1], slopes(cases.INTERPRETED[0])
    due = [both(given, options, grads, target=CPU) for given in pairs]
    run = jax.vmap(partial(both, target=INTERPRETED), in_axes=(0, None, None))
    found = run(jax.tree.map(lambda *a: jnp.stack(a), *pairs), options, grads)
    stacked = jax.tree.map(lambda *a: np.stack(a), *due)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(stacked), strict=True):
        assert exact.off(one, other) < 1e-5


def test_the_kernels_are_exported():
    case = cases.INTERPRETED[0]
    given, options = cases.arrays(case)
    run = jax.jit(partial(both, target=V5E))
    made = export.export(run, platforms=("tpu",))(given, options, slopes(case))
    assert made.mlir_module().count("tpu_custom_call") == 2


def test_what_the_kernels_cannot_do_is_said():
    made = given_of(**cases.arrays(cases.INTERPRETED[0])[0], reset=None, valid=None)
    assert tpu.unsupported(V5E, made) is None
    assert tpu.unsupported(CPU, made) == "the target is a CPU"
    old = Target("tpu", generation="v2")
    assert tpu.unsupported(old, made) == "they were not compiled for TPU v2"
    half = made._replace(delta=made.delta.astype(jnp.float16))
    assert tpu.unsupported(V5E, half) == "delta is float16, not float32 or bfloat16"
    wide = made._replace(a=jnp.zeros((65, 128)))
    assert tpu.unsupported(V5E, wide) == "states of 65 are larger than 64"


def test_bundles_in_loops_count_as_often_as_they_turn():
    depths = ["", ">", ">>", ">>", ">", ""]
    text = "\n".join(f"   0x{n}   : {depth} {{ %{n} = a }}" for n, depth in enumerate(depths))
    assert looped(text, 7) == 2 + 7 * 2


def made(generation, number):
    pytest.importorskip("libtpu")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.scan_bundles", generation, str(number)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_both_kernels_keep_within_their_bundles():
    found = made("v5e", 0)
    assert found["kernels"] == sorted(BUDGET)
    assert found["temporaries"] < 1.2 * KEPT
    assert found["programs"] == 384
    for name, budget in BUDGET.items():
        assert 0.5 * budget < found["bundles"][name] < 1.05 * budget


@pytest.mark.slow
def test_lengths_that_divide_by_nothing_with_absent_tokens():
    check(replace(cases.INTERPRETED[1], missing="some"), jnp.float32, target=INTERPRETED)


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["v5e", "v5p", "v6e"])
@pytest.mark.parametrize("number", range(4))
def test_kernels_compile_for_every_generation(generation, number):
    found = made(generation, number)
    assert found["kernels"] == sorted(BUDGET)
    assert found["temporaries"] < 2.5 * KEPT

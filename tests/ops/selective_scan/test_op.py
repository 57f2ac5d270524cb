"""The selective scan against float64 NumPy; masks, resets, states, meshes; what cannot be asked."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.errors import FusekitError
from fusekit.layout import Layout
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.selective_scan import cases, plan, selective_scan, selective_step
from fusekit_modules.ops.selective_scan.form import given_of, marks_of
from tests.ops.selective_scan import exact
from tests.ops.selective_scan.calls import both, called, check, slopes

CPU = Target("cpu")
SMALL = replace(cases.TESTED[2], batch=8, time=20, resets=(6,))


def test_the_exact_gradients_are_slopes():
    given, options = cases.arrays(cases.Case("tiny", 1, 4, 2, 2, (2,)))
    wide = {name: np.asarray(array, np.float64) for name, array in given.items()}
    rng = np.random.default_rng(2)
    d_y, d_last = rng.standard_normal((1, 4, 2)), rng.standard_normal((1, 2, 2))

    def loss(**moved):
        y, last, _ = exact.forward({**wide, **moved}, options)
        return (y * d_y).sum() + (last * d_last).sum()

    found = exact.backward(wide, options, d_y, d_last)
    for name, array in wide.items():
        for place in np.ndindex(*array.shape):
            move = np.zeros_like(array)
            move[place] = 1e-6
            slope = (loss(**{name: array + move}) - loss(**{name: array - move})) / 2e-6
            assert slope == pytest.approx(found[name][place], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("backend", ["reference", "xla"])
@pytest.mark.parametrize("missing", ["none", "some", "all"])
@pytest.mark.parametrize("case", cases.TESTED, ids=lambda case: case.name)
def test_values_and_gradients_are_those_of_float64(case, missing, backend):
    check(replace(case, missing=missing), jnp.float32, target=CPU, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_in_half_precision(backend):
    check(replace(cases.TESTED[2], missing="some"), jnp.bfloat16, target=CPU, backend=backend)


def test_what_is_absent_may_hold_anything():
    given, options = cases.arrays(replace(SMALL, missing="some"))
    absent = ~np.asarray(options["valid"])[..., None]
    other = {
        name: jnp.where(absent, 1e30, array) if name in ("x", "delta", "into", "out") else array
        for name, array in given.items()
    }
    run = jax.jit(lambda given, grads: both(given, options, grads, target=CPU))
    grads = slopes(SMALL)
    first, second = run(given, grads), run(other, grads)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_a_reset_begins_anew():
    given, options = cases.arrays(replace(SMALL, resets=(6,)))
    y, last = called(given, options, target=CPU)
    parts = {k: v[:, 6:] for k, v in given.items() if k in ("x", "delta", "into", "out")}
    after, end = selective_scan(**parts, a=given["a"], target=CPU)
    np.testing.assert_allclose(y[:, 6:], after, rtol=1e-6)
    np.testing.assert_allclose(last, end, rtol=1e-6)


def test_a_reset_on_an_absent_token_waits():
    valid = np.array([[1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    reset = np.array([[0, 1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]], bool)
    due = [[1, 0, 0, 2, 2, 0], [0, 0, 0, 0, 0, 0], [2, 1, 1, 1, 1, 2]]
    found = marks_of(jnp.asarray(reset), jnp.asarray(valid))
    assert np.array_equal(np.asarray(found), due)
    assert marks_of(None, None) is None


def test_steps_are_a_sequence():
    given, options = cases.arrays(replace(SMALL, missing="some"))
    y, last = called(given, options, target=CPU)
    resets = jnp.asarray(marks_of(options["reset"], options["valid"])) == 2
    state, found, step = given["state"], [], jax.jit(selective_step)
    for t in range(SMALL.time):
        x, delta, into, out = (given[name][:, t] for name in ("x", "delta", "into", "out"))
        valid, reset = options["valid"][:, t], resets[:, t]
        one, state = step(x, delta, given["a"], into, out, state, valid=valid, reset=reset)
        found.append(one)
    np.testing.assert_allclose(np.stack(found, 1), y, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(state, last, rtol=2e-5, atol=1e-6)


def test_a_state_passes_from_call_to_call():
    given, _ = cases.arrays(cases.TESTED[2])
    whole = called(given, {}, target=CPU)
    tokens = ("x", "delta", "into", "out")
    state, parts = given["state"], []
    for part in (slice(0, 37), slice(37, None)):
        cut = {k: v[:, part] if k in tokens else v for k, v in given.items()}
        y, state = called({**cut, "state": state}, {}, target=CPU)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state, whole[1], rtol=1e-5, atol=1e-6)


def test_mapped_over_a_leading_axis():
    pairs = [cases.arrays(SMALL, seed=seed)[0] for seed in (1, 2)]
    grads = slopes(SMALL)
    options = cases.arrays(SMALL)[1]
    due = [both(given, options, grads, target=CPU) for given in pairs]
    run = jax.vmap(partial(both, target=CPU), in_axes=(0, None, None))
    found = run(jax.tree.map(lambda *a: jnp.stack(a), *pairs), options, grads)
    stacked = jax.tree.map(lambda *a: np.stack(a), *due)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, stacked)


def test_over_a_mesh_it_is_that_of_one_device():
    layout = Layout.of({"data": 2, "fsdp": 2, "tensor": 2})
    given, options = cases.arrays(replace(SMALL, missing="some"))
    grads = slopes(SMALL)
    due = both(given, options, grads, target=CPU)
    cut = NamedSharding(layout.mesh, P(("data", "fsdp"), None, "tensor"))
    placed = {**given, **{name: jax.device_put(given[name], cut) for name in ("x", "delta")}}
    found = both(placed, options, grads, target=Target.of(layout), layout=layout)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < 1e-5


def test_the_portable_form_is_exported_for_every_platform():
    given, options = cases.arrays(replace(SMALL, missing="some"))
    run = jax.jit(partial(both, target=CPU, backend="xla"))
    made = export.export(run, platforms=("cpu", "cuda", "tpu"))(given, options, slopes(SMALL))
    assert made.platforms == ("cpu", "cuda", "tpu")


def test_the_choice_says_why():
    given, _ = cases.arrays(SMALL)
    made = given_of(**given, reset=None, valid=None)
    found = plan(made, target=CPU)
    assert str(found.forward) == "selective scan: xla; not tpu: the target is a CPU"
    assert plan(made, target=Target("tpu", "v5e")).backward.backend == "tpu"
    with pytest.raises(BackendError, match="cannot use the backend tpu: the target is a CPU"):
        plan(made, target=CPU, backend="tpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": jnp.zeros((2, 3))}, r"of x \[b, t, d\] and a \[d, n\], not of \(2, 3\)"),
        ({"delta": jnp.zeros((8, 20, 9))}, r"delta has shape \(8, 20, 9\), not \(8, 20, 10\)"),
        ({"a": jnp.zeros((9, 3))}, r"a has shape \(9, 3\), not \(10, 3\)"),
        ({"out": jnp.zeros((8, 20, 4))}, r"out has shape \(8, 20, 4\), not \(8, 20, 3\)"),
        ({"into": jnp.zeros((8, 20, 3), int)}, "into is int32, not of real numbers"),
        ({"state": jnp.zeros((8, 3, 10))}, r"state has shape \(8, 3, 10\), not \(8, 10, 3\)"),
        ({"valid": jnp.ones((8, 20))}, "valid is float32 of shape"),
        ({"reset": jnp.ones((8, 1), bool)}, r"reset is bool of shape \(8, 1\), not bool of"),
    ],
)
def test_what_does_not_fit_is_said(change, said):
    given, _ = cases.arrays(SMALL)
    with pytest.raises(FusekitError, match=said):
        selective_scan(**{**given, **change}, target=CPU)

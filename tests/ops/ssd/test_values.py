"""`ssd` against float64 NumPy: values, gradients, resets, what is not there, steps, types."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import FusekitError
from fusekit_modules.ops import BackendError
from fusekit_modules.ops.ssd import cases, floors, ssd, ssd_step
from fusekit_modules.ops.ssd.given import carried
from tests.ops.ssd.exact import by_hand, difference

NAMES = ("x", "decay", "into", "out")
BACKENDS = ("reference", "xla")
SETTINGS = ("chunk", "backend")
run = jax.jit(ssd, static_argnames=SETTINGS)
every_case = pytest.mark.parametrize("case", cases.TESTED, ids=lambda case: case.name)


def doubled(tree):
    return jax.tree.map(
        lambda a: np.asarray(a) if a.dtype == bool else np.asarray(a, np.float64), tree
    )


def shown(given, marks):
    """With zeros for what is not there, which NumPy would multiply by."""
    valid = marks["valid"]
    if valid is None:
        return given
    return tuple(jnp.where(valid.reshape(*valid.shape, *(1,) * (a.ndim - 2)), a, 0) for a in given)


@pytest.mark.parametrize(
    ("backend", "missing"),
    [("reference", "some"), *(("xla", m) for m in ("none", "some", "samples", "all"))],
)
@every_case
def test_values_are_those_of_float64(case, backend, missing):
    given, marks = cases.arrays(replace(case, missing=missing))
    due = by_hand(*doubled(shown(given, marks)), **doubled(marks))
    found = run(*given, **marks, chunk=16, backend=backend)
    assert difference(found[0], due[0]) < 1e-5
    assert difference(found[1], due[1]) < 1e-5
    if marks["valid"] is not None:
        assert not np.asarray(found[0])[~np.asarray(marks["valid"])].any()


@pytest.mark.parametrize("backend", BACKENDS)
@every_case
def test_gradients_are_differences_of_float64(case, backend):
    """Of a random sum of results and last states, along a random direction of each argument."""
    case = replace(case, batch=1, missing="some")
    given, marks = cases.arrays(case)
    rng = np.random.default_rng(3)
    exact, where = doubled(shown(given, marks)), doubled(marks)
    weights = [rng.standard_normal(np.shape(a)) for a in by_hand(*exact, **where)]

    def total(args, state, call, np_):
        marks = {name: where[name] for name in ("reset", "valid")}
        found = call(*args, **marks, state=state)
        return sum(np_.sum(w * a) for w, a in zip(weights, found, strict=True))

    with jax.enable_x64(True):
        doubles = tuple(jnp.asarray(np.asarray(a), jnp.float64) for a in given)
        state = where["state"]
        call = partial(ssd, chunk=16, backend=backend)
        graded = jax.grad(lambda *a: total(*a, call, jnp), (0,) if state is None else (0, 1))
        grads = jax.jit(graded)(doubles, None if state is None else jnp.asarray(state))
    every = [*grads[0], *grads[1:]]
    args = [*exact, *([] if state is None else [state])]
    for n, (grad, array) in enumerate(zip(every, args, strict=True)):
        direction = rng.standard_normal(array.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [a + step * direction if m == n else a for m, a in enumerate(args)]
            ends.append(total(moved[:4], moved[4] if len(moved) > 4 else None, by_hand, np))
        due = (ends[0] - ends[1]) / 2e-6
        assert np.sum(np.asarray(grad) * direction) == pytest.approx(due, rel=1e-6, abs=1e-6)
        assert np.isfinite(np.asarray(grad)).all()


@every_case
def test_gradients_in_float32_and_bfloat16(case):
    """Against those of the reference in float64."""

    def grads(args, marks, backend):
        rng = np.random.default_rng(5)

        def total(*args):
            found = ssd(*args, **marks, chunk=16, backend=backend)
            drawn = [jnp.asarray(rng.standard_normal(a.shape), jnp.bfloat16) for a in found]
            return sum(jnp.sum(w.astype(a.dtype) * a) for w, a in zip(drawn, found, strict=True))

        return jax.grad(total, argnums=(0, 1, 2, 3))(*args)

    for kind, most in ((jnp.float32, 1e-5), (jnp.bfloat16, 5e-3)):
        given, marks = cases.arrays(replace(case, missing="some"), kind)
        found = jax.jit(lambda *a, m=marks: grads(a, m, "xla"))(*given)
        with jax.enable_x64(True):
            exact = tuple(jnp.asarray(np.asarray(a, np.float64)) for a in given)
            due = jax.jit(lambda *a, m=marks: grads(a, m, "reference"))(*exact)
        for name, one, other in zip(NAMES, found, due, strict=True):
            assert difference(one, other) < most, (name, kind)


@every_case
def test_in_bfloat16_values_are_near_those_of_float64(case):
    given, marks = cases.arrays(case, jnp.bfloat16)
    due = by_hand(*doubled(given), **doubled(marks))
    found, last = run(*given, **marks, chunk=16)
    assert (found.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    assert difference(found, due[0]) < 5e-3
    assert difference(last, due[1]) < 5e-3


@every_case
def test_chunks_of_any_size_are_the_same(case):
    given, marks = cases.arrays(replace(case, missing="some"))
    one = run(*given, **marks, chunk=10**6)
    for chunk in (8, 24):
        other = run(*given, **marks, chunk=chunk)
        assert difference(other[0], one[0]) < 1e-5
        assert difference(other[1], one[1]) < 1e-5


@pytest.mark.parametrize("missing", ["none", "some"])
@every_case
def test_steps_are_the_sequence(case, missing):
    given, marks = cases.arrays(replace(case, missing=missing))
    due, last = run(*given, **marks, chunk=16)
    step = jax.jit(ssd_step)
    reset, valid = marks["reset"], marks["valid"]
    if reset is not None and valid is not None:
        reset = carried(reset, valid)
    state = marks["state"]
    if state is None:
        state = jnp.zeros(last.shape)
    for t in range(case.time):
        now = [a[:, t] for a in given]
        marked = {n: m[:, t] for n, m in (("reset", reset), ("valid", valid)) if m is not None}
        y, state = step(*now, state, **marked)
        np.testing.assert_allclose(y, due[:, t], rtol=1e-4, atol=1e-5)
    assert difference(state, last) < 1e-5


def test_a_sequence_can_be_taken_up_where_it_was_left():
    given, marks = cases.arrays(replace(cases.TESTED[3], missing="some"))
    whole = run(*given, **marks, chunk=16)
    marks["reset"] = carried(marks["reset"], marks["valid"])
    first, second = (
        [a[:, at] for a in (*given, marks["reset"], marks["valid"])]
        for at in (slice(0, 27), slice(27, None))
    )
    y, state = run(*first[:4], reset=first[4], valid=first[5], state=marks["state"], chunk=16)
    z, state = run(*second[:4], reset=second[4], valid=second[5], state=state, chunk=16)
    assert difference(jnp.concatenate([y, z], axis=1), whole[0]) < 1e-5
    assert difference(state, whole[1]) < 1e-5


def test_after_a_reset_nothing_before_matters():
    """Bit for bit."""
    given, _ = cases.arrays(cases.TESTED[1])
    reset = jnp.zeros(given[0].shape[:2], bool).at[:, 21].set(True)
    far = [a.at[:, :21].mul(3.0) for a in given]
    one, other = (run(*args, reset=reset, chunk=16) for args in (given, far))
    np.testing.assert_array_equal(one[0][:, 21:], other[0][:, 21:])
    np.testing.assert_array_equal(one[1], other[1])


def test_a_reset_on_padding_waits_and_one_at_the_end_keeps_the_state():
    valid = jnp.asarray([[1, 1, 0, 0, 1, 1, 0, 0]], bool)
    reset = jnp.asarray([[0, 0, 1, 0, 0, 0, 1, 0]], bool)
    np.testing.assert_array_equal(carried(reset, valid)[0], [0, 0, 0, 0, 1, 0, 0, 0])
    ones = jnp.ones((1, 8, 1, 1))
    y, state = run(ones, jnp.zeros((1, 8, 1)), ones, ones, reset=reset, valid=valid)
    np.testing.assert_allclose(y[0, :, 0, 0], [1, 2, 0, 0, 1, 2, 0, 0])
    assert float(state[0, 0, 0, 0]) == pytest.approx(2.0)


def test_a_decay_of_minus_infinity_forgets_all():
    given, _ = cases.arrays(cases.TESTED[1])
    decay = given[1].at[:, 30].set(-jnp.inf)
    found = run(given[0], decay, *given[2:], chunk=16)
    due = run(*given, reset=jnp.zeros((2, 50), bool).at[:, 30].set(True), chunk=16)
    assert difference(found[0][:, 30:], due[0][:, 30:]) < 1e-5
    assert np.isfinite(np.asarray(found[0])).all()


def test_what_does_not_fit_is_told():
    given, _ = cases.arrays(cases.TESTED[2])
    x, decay, into, out = given
    with pytest.raises(FusekitError, match=r"decay is \[3, 37, 5\]: expected \[3, 37, 6\]"):
        ssd(x, decay[..., :5], into, out)
    with pytest.raises(FusekitError, match="4 groups do not divide 6 heads"):
        ssd(x, decay, jnp.ones((3, 37, 4, 5)), jnp.ones((3, 37, 4, 5)))
    with pytest.raises(FusekitError, match=r"expected \[3, 37, groups, states\] of both"):
        ssd(x, decay, into, out[:, 1:])
    with pytest.raises(FusekitError, match=r"state is \[3, 6, 4, 4\]: expected \[3, 6, 4, 5\]"):
        ssd(x, decay, into, out, state=jnp.zeros((3, 6, 4, 4)))
    with pytest.raises(FusekitError, match=r"x is int32\[3, 37, 6, 4\]: expected floats"):
        ssd(x.astype(jnp.int32), decay, into, out)
    with pytest.raises(FusekitError, match="a chunk of 0 tokens"):
        ssd(*given, chunk=0)
    with pytest.raises(BackendError, match="ssd has no backend tpu: it has auto, xla, reference"):
        ssd(*given, backend="tpu")


def test_floors_follow_from_shapes():
    given = jax.eval_shape(lambda: cases.arrays(cases.TIMED[0], jnp.bfloat16)[0])
    floor = floors.forward(*given)
    assert floor.flops == 4 * 8 * 2048 * 1536 * 16
    assert floor.bytes == 8 * 2048 * (2 * 1536 * 2 + 24 * 4 + 2 * 16 * 2)
    assert floors.backward(*given).flops == 2 * floor.flops

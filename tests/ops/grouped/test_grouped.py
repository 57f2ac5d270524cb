"""Every form against float64 by NumPy: values and gradients; and rows of no group."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import FusekitError
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.grouped_product import Sorted, cases, floors, grouped_product, plan, tpu
from fusekit_modules.ops.grouped_product.op import CPU
from tests.ops.grouped.exact import off, product

INTERPRETED = Target("tpu", interpret=True)
LIMITS = {"float32": 1e-5, "bfloat16": 5e-3}
FORMS = {
    "reference": {"backend": "reference"},
    "xla": {"backend": "xla"},
    "tpu": {"backend": "tpu", "target": INTERPRETED},
    "tpu forward": {"backend": "tpu", "backward": "xla", "target": INTERPRETED},
}
TRIED = [
    *[("xla", "float32", case) for case in cases.TESTED[:5]],
    *[("tpu", "float32", case) for case in cases.TESTED[:5]],
    ("xla", "bfloat16", cases.TESTED[3]),
    pytest.param("tpu", "bfloat16", cases.TESTED[0], marks=pytest.mark.slow),
    ("tpu", "bfloat16", cases.TESTED[3]),
    ("reference", "float32", cases.TESTED[3]),
    ("tpu forward", "float32", cases.TESTED[3]),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles of these few rows, and of their features."""
    monkeypatch.setattr(tpu, "ROWS", 16)
    monkeypatch.setattr(tpu, "_cut", lambda _, width: min(width, 16))


def outcome(options, rows, sizes, weights, grad):
    out, back = jax.vjp(lambda r, w: grouped_product(r, sizes, w, **options), rows, weights)
    return out, back(grad)


@pytest.mark.parametrize(("form", "dtype", "case"), TRIED, ids=lambda v: getattr(v, "name", str(v)))
def test_it_is_that_of_numpy(form, dtype, case):
    rows, sizes, weights, grad = cases.arrays(case, dtype)
    out, grads = jax.jit(partial(outcome, FORMS[form]))(rows, sizes, weights, grad)
    due, owed = product(rows, sizes, weights, grad)
    assert out.dtype == dtype
    assert off(out, due) < LIMITS[dtype]
    for one, other in zip(grads, owed, strict=True):
        assert one.dtype == dtype
        assert off(one, other) < LIMITS[dtype]
    beyond = sum(case.sizes)
    assert np.all(np.asarray(out)[beyond:] == 0)
    assert np.all(np.asarray(grads[0])[beyond:] == 0)


@pytest.mark.parametrize("form", ["xla", "tpu"])
def test_what_is_of_no_group_changes_nothing(form):
    rows, sizes, weights, grad = cases.arrays(cases.TESTED[3])
    call = jax.jit(partial(outcome, FORMS[form]))
    lost = (jnp.arange(len(rows)) >= sizes.sum())[:, None]
    plain = call(jnp.where(lost, 0, rows), sizes, weights, jnp.where(lost, 0, grad))
    for garbage in (np.nan, np.inf, 1e30):
        found = call(jnp.where(lost, garbage, rows), sizes, weights, jnp.where(lost, garbage, grad))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", [0, 3, 5])
def test_sizes_that_are_known_are_slices(number):
    case = cases.TESTED[number]
    rows, _, weights, grad = cases.arrays(case)
    rows = jnp.nan_to_num(rows, nan=7, posinf=7, neginf=7)
    known = jax.jit(lambda r, w: jax.vjp(lambda r, w: grouped_product(r, case.sizes, w), r, w)[0])
    out = known(rows, weights)
    due, _ = product(rows, case.sizes, weights, grad)
    assert off(out, due) < 1e-5
    text = known.lower(rows, weights).compile().as_text()
    assert " sort(" not in text
    assert " gather(" not in text


@pytest.mark.parametrize("copies", [1, 2])
def test_sorting_is_a_permutation_and_gathers_alone(copies):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 2 * 9)  # 3 is no group of three
    rows = jnp.asarray(rng.normal(size=(18 // copies, 5)), jnp.float32)
    grad = jnp.asarray(rng.normal(size=(18, 5)), jnp.float32)

    def call(rows):
        found = Sorted.by(jnp.asarray(group), 3)
        return found.back(found.spread(rows, copies)), found

    found = jax.jit(lambda rows: call(rows)[1])(rows)
    np.testing.assert_array_equal(found.order, np.argsort(group, stable=True))
    np.testing.assert_array_equal(found.place, np.argsort(np.asarray(found.order)))
    np.testing.assert_array_equal(found.sizes, np.bincount(group, minlength=4)[:3])
    both = jax.jit(lambda rows, grad: jax.vjp(lambda r: call(r)[0], rows)[1](grad))
    np.testing.assert_array_equal(jax.jit(lambda r: call(r)[0])(rows), np.repeat(rows, copies, 0))
    np.testing.assert_allclose(
        both(rows, grad)[0], np.asarray(grad).reshape(-1, copies, 5).sum(1), rtol=1e-6
    )
    assert " scatter(" not in both.lower(rows, grad).compile().as_text()


def test_backends_are_chosen_and_say_why_not():
    rows, _, weights, _ = cases.arrays(cases.TESTED[0])
    v5e = Target("tpu", generation="v5e")
    hopper = Target("gpu", capability=(9, 0))
    assert plan(rows, weights, target=v5e).forward.backend == "tpu"
    for target in (CPU, hopper, Target("tpu", generation="v2")):
        assert plan(rows, weights, target=target).backward.backend == "xla"
    half = rows.astype("float16")
    assert plan(half, weights, target=v5e).forward.backend == "xla"
    with pytest.raises(BackendError, match="cannot use the backend tpu: the target is a CPU"):
        plan(rows, weights, backend="tpu")
    with pytest.raises(BackendError, match="backend tokamax: the target is a CPU"):
        plan(rows, weights, backend="tokamax")


def test_sizes_that_do_not_fit_are_refused():
    rows, sizes, weights, _ = cases.arrays(cases.TESTED[0])
    with pytest.raises(FusekitError, match="3 sizes of groups are given, and 4 weights"):
        grouped_product(rows, sizes[:3], weights)
    with pytest.raises(FusekitError, match="groups of 40 rows are more than the 32 there are"):
        grouped_product(rows, (10, 10, 10, 10), weights)


def test_floors_count_products():
    rows, weights = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((10, 4), (3, 4, 6)))
    assert floors.forward(rows, weights) == (2 * 10 * 4 * 6, 2 * (40 + 60 + 72), 0)
    assert floors.backward(rows, weights).flops == 2 * floors.forward(rows, weights).flops


def test_the_portable_form_is_exported_for_every_platform():
    rows, sizes, weights, grad = cases.arrays(cases.TESTED[0])
    call = jax.jit(partial(outcome, FORMS["xla"]))
    exported = jax.export.export(call, platforms=("cpu", "cuda", "tpu"))(rows, sizes, weights, grad)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    out, _ = exported.call(rows, sizes, weights, grad)
    assert off(out, product(rows, sizes, weights, grad)[0]) < 1e-5

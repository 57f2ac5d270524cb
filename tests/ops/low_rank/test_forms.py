"""Every form of the low-rank product against float64 by NumPy, values and gradients."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.low_rank import cases, floors, gpu, reference, tpu, xla
from tests.ops.low_rank import exact

LIMITS = {"float32": 1e-5, "bfloat16": 5e-3}
FORWARD = {
    "reference": reference.forward,
    "xla": xla.forward,
    "xla, a rank at a time": partial(xla.forward, numbers=1),
    "tpu": partial(tpu.forward, target=Target("tpu", interpret=True)),
    "gpu": partial(gpu.forward, target=Target("gpu", interpret=True), tiles=gpu.Tiles(16, 16, 16)),
}
BACKWARD = {
    "reference": reference.backward,
    "xla": xla.backward,
    "xla, a rank at a time": partial(xla.backward, numbers=1),
    "xla, three of four": partial(xla.backward, numbers=3 * 3 * 33 * 19),
}
MISSING = ("none", "some", "all")
TRIED = [("none", "float32"), ("some", "float32"), ("all", "float32"), ("some", "bfloat16")]


def grad_of(case, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(9).standard_normal((case.rows, case.out)), dtype)


@pytest.mark.parametrize(("missing", "dtype"), TRIED)
@pytest.mark.parametrize("case", cases.TESTED, ids=lambda case: case.name)
@pytest.mark.parametrize("form", FORWARD)
def test_values_are_those_of_float64(form, case, missing, dtype):
    given = cases.arrays(replace(case, missing=missing), dtype)
    found = jax.jit(FORWARD[form])(given)
    assert found.dtype == dtype
    assert exact.off(found, exact.forward(exact.doubled(given))) < LIMITS[dtype]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("case", cases.TESTED[:2], ids=lambda case: case.name)
@pytest.mark.parametrize("form", list(BACKWARD)[:3])
def test_gradients_are_differences_of_float64(form, case, missing):
    """Along a random direction of each array; some factors are exactly 0."""
    given = cases.arrays(replace(case, missing=missing))
    grad = grad_of(case)
    found = jax.tree.leaves(jax.jit(BACKWARD[form])(given, grad))
    leaves, tree = jax.tree.flatten(exact.doubled(given))
    rng = np.random.default_rng(3)
    for number, leaf in enumerate(leaves):
        way = rng.standard_normal(leaf.shape)

        def loss(step, number=number, way=way):
            moved = [at + step * way if n == number else at for n, at in enumerate(leaves)]
            return np.vdot(grad, exact.forward(jax.tree.unflatten(tree, moved)))

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert np.vdot(np.asarray(found[number], float), way) == pytest.approx(
            slope, rel=2e-5, abs=2e-5
        )


@pytest.mark.parametrize(("missing", "dtype"), TRIED)
@pytest.mark.parametrize("case", cases.TESTED[2:], ids=lambda case: case.name)
@pytest.mark.parametrize("form", list(BACKWARD)[1:])
def test_gradients_are_those_of_the_reference(form, case, missing, dtype):
    given, grad = cases.arrays(replace(case, missing=missing), dtype), grad_of(case, dtype)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (given, grad))
    due = reference.backward(*wide)
    found = jax.jit(BACKWARD[form])(given, grad)
    assert jax.tree.map(lambda a: a.dtype, found) == jax.tree.map(lambda a: a.dtype, given)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < LIMITS[dtype]


def test_where_two_factors_are_zero_nothing_is_divided_by_them():
    """Of three factors two are 0: no gradient by any; of one that is 0, only by that one."""
    given = cases.arrays(cases.Case("three", 1, (1, 1, 1), 1, 2))
    factors = [f._replace(weights=f.weights * 0 + 1.0) for f in given.factors]
    offsets = jnp.array([[[0.0, 0.0]], [[0.0, 2.0]], [[3.0, 3.0]]])
    factors = tuple(f._replace(offsets=o) for f, o in zip(factors, offsets, strict=True))
    zeros = tuple(jnp.zeros((1, 1)) for _ in range(3))
    given = given._replace(vectors=zeros, factors=factors, mix=jnp.ones(1))
    for form in BACKWARD.values():
        found = form(given, jnp.array([[1.0, 10.0]]))
        np.testing.assert_array_equal(jnp.concatenate(found.vectors), [[60.0], [0.0], [0.0]])


def test_so_many_steps_are_unrolled_as_are_few_numbers():
    given = jax.eval_shape(lambda: cases.arrays(cases.Case("some", 8, (3, 3), 12, 5)))
    found = {n: xla.together(given, 80 * n) for n in (0, 1, 2, 5, 99)}
    assert found == {0: 1, 1: 1, 2: 2, 5: 4, 99: 4}


def test_factors_of_all_ranks_are_never_held():
    """The whole gradient, compiled for this CPU: in float32 those of all ranks are 512 MiB."""
    given = jax.eval_shape(lambda: cases.arrays(replace(cases.TIMED[0], widths=(64,) * 4)))
    grad = jax.ShapeDtypeStruct((4096, 512), jnp.float32)
    program = jax.jit(xla.backward).lower(given, grad).compile()
    assert program.memory_analysis().temp_size_in_bytes < 160 << 20  # some 14 arrays of 8


def test_floors_by_hand():
    given = cases.arrays(cases.Case("two", 5, (3, 4), 2, 7), jnp.bfloat16)
    product = 2 * 2 * 5 * 7 * (3 + 4)
    read = 5 * (3 + 4) + 2 * 7 * (1 + 3 + 1 + 4) + 2 + 7  # numbers, of two bytes each
    assert floors.forward(given)[:2] == (product, 2 * (read + 5 * 7))
    assert floors.backward(given)[:2] == (3 * product, 2 * (2 * read + 5 * 7))

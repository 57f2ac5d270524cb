"""The operation by itself as an exported program: for each platform, and any number of rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.linear_cross_entropy import cases, linear_cross_entropy, xla
from tests.ops.vocabulary.exact import both, off

pytest.importorskip("flatbuffers")

CASE = cases.Case("some rows", 24, 16, 1300, "some")
TARGETS = {
    "cpu": Target("cpu"),
    "cuda": Target("gpu", capability=(9, 0)),
    "tpu": Target("tpu", generation="v5e"),
}


def call(options, given, target, counts, grad):
    """By row, and gradients of the sum weighed by `grad`."""

    def total(given):
        each = linear_cross_entropy(*given, target, counts, **options)
        return jnp.sum(grad * each), each

    (_, each), grads = jax.value_and_grad(total, has_aux=True)(given)
    return each, grads


def exported(backend, platforms, rows, place):
    """The stored program, read again, for so many rows."""
    given, target, counts = cases.arrays(CASE)

    def shape(array, own=None):
        sizes = array.shape if own is None else (own, *array.shape[1:])
        return jax.ShapeDtypeStruct(sizes, array.dtype)

    shapes = shape(given.features, rows), shape(given.kernel), shape(given.bias)
    more = shape(target, rows), shape(counts, rows), jax.ShapeDtypeStruct((rows,), jnp.float32)
    both = jax.jit(partial(call, {"backend": backend, "place": place}))
    made = jax.export.export(both, platforms=platforms)(shapes, *more)
    return jax.export.deserialize(made.serialize())


def holds(program):
    """Its numbers are those of NumPy."""
    given, target, counts = cases.arrays(CASE)
    grad = np.random.default_rng(3).standard_normal(CASE.rows).astype("float32")
    each, grads = program.call(tuple(given), target, counts, grad)
    due, owed = both(given, target, counts, grad)
    assert off(each, due) < 1e-5
    assert all(off(one, other) < 1e-5 for one, other in zip(grads, owed, strict=True))


@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize("backend", ["xla", "reference", "auto"])
def test_each_platform_has_a_program(platform, backend):
    program = exported(backend, [platform], CASE.rows, TARGETS[platform])
    assert program.platforms == (platform,)
    assert "custom_call" not in program.mlir_module().replace("@Sharding", "")
    if platform == "cpu":
        holds(program)


def test_one_program_serves_all_platforms_and_any_number_of_rows():
    (rows,) = jax.export.symbolic_shape("rows")
    program = exported("xla", ["cpu", "cuda", "tpu"], rows, Target("cpu"))
    assert program.platforms == ("cpu", "cuda", "tpu")
    holds(program)


@pytest.mark.parametrize("rows", [1, 24, 100_000])
def test_chunks_of_unknown_rows_are_of_the_fewest_words(rows):
    (unknown,) = jax.export.symbolic_shape("rows")
    size, whole = xla.chunks(unknown, 32768)
    assert size * (whole + 1) >= 32768
    assert size <= xla.chunks(rows, 32768)[0]

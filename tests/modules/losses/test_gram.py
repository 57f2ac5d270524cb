import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.losses.gram import GramSpec
from fusekit_modules.ops.contrastive.volumes import volumes
from tests.modules.losses.harness import gradient, inert, run, scalar

ROWS = np.array([True, True, False, True])


def spec(names="abc", **fields):
    return GramSpec(**{"inputs": list(names), **fields})


def unit(v):
    v = np.asarray(v, "float64")
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def volume(*vectors):
    """From the determinant of the Gram matrix, or, where that has no digits, singular values."""
    return np.prod(np.linalg.svd(np.stack(vectors), compute_uv=False))


def reference(vectors, rows, temperature):
    index = np.flatnonzero(rows)
    vectors = [unit(v) for v in vectors]
    anchor, others = vectors[0], vectors[1:]
    table = [[-volume(anchor[i], *(v[j] for v in others)) for j in index] for i in index]
    logits = np.array(table) / temperature
    own = np.diag(logits)
    to_data = np.log(np.exp(logits).sum(1)) - own
    to_anchor = np.log(np.exp(logits).sum(0)) - own
    return np.mean(to_data + to_anchor) / 2


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
@pytest.mark.parametrize("role", ["a", "b"])
def test_against_numpy(names, role):
    rng = np.random.default_rng(5)
    vectors = [rng.normal(size=(4, 5)) for _ in names]
    inputs = {name: vector(5) for name in names}
    chosen = spec(names, temperature=0.2, learn=False)
    with jax.enable_x64(True):
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip(names, vectors, strict=True)}

        def loss(values):
            return scalar(run(chosen, inputs, {**streams, role: Stream(values)}, ROWS))

        def plain(values):
            at = names.index(role)
            return reference([*vectors[:at], values, *vectors[at + 1 :]], ROWS, 0.2)

        gradient(loss, vectors[names.index(role)], plain)
        inert(chosen, inputs, streams, ROWS, role=role)


def test_in_float32():
    rng = np.random.default_rng(6)
    vectors = [rng.normal(size=(4, 8)).astype("float32") for _ in "abc"]
    streams = {n: Stream(jnp.asarray(v)) for n, v in zip("abc", vectors, strict=True)}
    found = float(scalar(run(spec(), {n: vector(8) for n in "abc"}, streams, ROWS)))
    np.testing.assert_allclose(found, reference(vectors, ROWS, 0.07), rtol=1e-5)


def near(count, width, apart, rng):
    """Unit vectors `[8, width]`, `count` of them, that are so far from one another."""
    common = rng.normal(size=(8, width))
    return [unit(common + apart * rng.normal(size=(8, width))) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("apart", [1.0, 0.3, 0.1, 0.05, 0.01, 1e-3, 1e-6, 0.0])
@pytest.mark.parametrize("width", [16, 512])
def test_volumes_in_float32(count, apart, width):
    """From 0.05 on within 1e-5 of the value, below within 1e-3; gradients no longer than one."""
    given = [v.astype("float32") for v in near(count, width, apart, np.random.default_rng(7))]
    found = np.asarray(jax.jit(volumes)(given[0], given[1:]))
    exact = [v.astype("float64") for v in given]
    for i in range(8):
        for j in range(8):
            due = volume(exact[0][i], *(v[j] for v in exact[1:]))
            if due >= 0.05:
                np.testing.assert_allclose(found[i, j], due, rtol=1e-5)
            else:
                np.testing.assert_allclose(found[i, j], due, atol=1e-3)

    def own(vectors):
        return jnp.sum(jnp.diag(volumes(vectors[0], vectors[1:])))

    for grad in jax.jit(jax.grad(own))(given):
        assert np.all(np.linalg.norm(np.asarray(grad), axis=1) <= 1.01)


@pytest.mark.parametrize("apart", [0.3, 0.1])
def test_gradients_of_volumes_in_float32(apart):
    given = [v.astype("float32") for v in near(3, 64, apart, np.random.default_rng(9))]

    def own(vectors):
        return jnp.sum(jnp.diag(volumes(vectors[0], vectors[1:])))

    found = jax.jit(jax.grad(own))(given)
    with jax.enable_x64(True):
        due = jax.jit(jax.grad(own))([jnp.asarray(v, "float64") for v in given])
    for one, other in zip(found, due, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-4)


@pytest.mark.parametrize("equal", ["ab", "bc", "abc"])
def test_gradients_are_finite_and_bounded_where_vectors_are_equal(equal):
    rng = np.random.default_rng(8)
    drawn = {name: rng.normal(size=(4, 5)).astype("float32") for name in "abc"}
    given = {name: drawn[equal[0]] if name in equal else drawn[name] for name in "abc"}

    def loss(values):
        streams = {name: Stream(v) for name, v in values.items()}
        return scalar(run(spec(learn=False), {n: vector(5) for n in "abc"}, streams, ROWS))

    value, grads = jax.jit(jax.value_and_grad(loss))({n: jnp.asarray(v) for n, v in given.items()})
    assert np.isfinite(value)
    for name, grad in grads.items():
        lengths = np.linalg.norm(np.asarray(grad), axis=1) * np.linalg.norm(given[name], axis=1)
        assert np.all(lengths <= 2 / 0.07)


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({"a": vector(3)})
    with pytest.raises(WiringError, match="span nothing"):
        spec().check({name: vector(2) for name in "abc"})

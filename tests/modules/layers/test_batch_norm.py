"""Batch and group norm against NumPy over the valid places alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit_modules.layers.batch_norm import BatchNorm
from fusekit_modules.layers.group_norm import GroupNorm
from tests.modules.layers.harness import TIGHT, check_gradients, float64, randomised

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3, 2, 4)) * 2 + 1
MASK = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
TRAIN = Context("train", dtype=jnp.float64)


def form(p, valid):
    rows = p["x"][valid].reshape(-1, 4)
    mean, variance = rows.mean(0), rows.var(0)
    return (p["x"] - mean) / np.sqrt(variance + 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("valid", [None, MASK, np.array([True, False, True, True])])
def test_training(valid):
    build, p = randomised(BatchNorm(4, rngs=nnx.Rngs(0)))
    p["x"] = X
    given = None if valid is None else jnp.asarray(valid)
    counts = np.ones(4, bool) if valid is None else valid

    def f(p):
        return build(p)(p["x"], given, context=TRAIN)

    with float64():
        module = build(p)
        out = module(jnp.asarray(X), given, context=TRAIN)
    np.testing.assert_allclose(out, form(p, counts), **TIGHT)
    rows = X[counts].reshape(-1, 4)
    np.testing.assert_allclose(module.mean[...], 0.1 * rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(module.variance[...], 0.9 + 0.1 * rows.var(0), rtol=1e-6)
    check_gradients(f, lambda p: form(p, counts), p)


def test_evaluation_uses_running_values_and_leaves_them():
    module = BatchNorm(4, rngs=nnx.Rngs(0))
    module.mean[...] = jnp.arange(4.0)
    x = jnp.asarray(X, jnp.float32)
    out = module(x, context=Context())
    np.testing.assert_allclose(out, (X - np.arange(4)) / np.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(module.mean[...], np.arange(4))


def test_a_batch_without_a_valid_place():
    build, p = randomised(BatchNorm(4, rngs=nnx.Rngs(0)))
    with float64():
        module = build(p)
        none = jnp.zeros((4,), bool)
        out = module(jnp.asarray(X), none, context=TRAIN)
        grads = jax.grad(lambda x: jnp.sum(jnp.square(build(p)(x, none, context=TRAIN))))(
            jnp.asarray(X)
        )
    np.testing.assert_allclose(out, X / np.sqrt(1 + 1e-5) * p["scale"] + p["bias"], **TIGHT)
    np.testing.assert_array_equal(module.mean[...], np.zeros(4))
    np.testing.assert_array_equal(module.variance[...], np.ones(4))
    assert np.all(np.isfinite(grads))


def test_values_of_absent_samples_do_not_enter():
    valid = jnp.asarray([True, False, True, True])
    module = BatchNorm(4, rngs=nnx.Rngs(0))
    x = jnp.asarray(X, jnp.float32)
    first = module(x, valid, context=TRAIN)
    second = module(x.at[1].set(1e6), valid, context=TRAIN)
    np.testing.assert_array_equal(np.delete(first, 1, 0), np.delete(second, 1, 0))


@pytest.mark.parametrize("valid", [None, MASK])
def test_groups(valid):
    build, p = randomised(GroupNorm(4, 2, rngs=nnx.Rngs(0)))
    p["x"] = X
    given = None if valid is None else jnp.asarray(valid)

    def g(p):
        out = np.zeros_like(p["x"])
        for i, x in enumerate(p["x"]):
            rows = np.ones(3, bool) if valid is None else valid[i]
            for c in (slice(0, 2), slice(2, 4)):
                some = x[rows][..., c]
                mean, variance = (some.mean(), some.var()) if some.size else (0.0, 0.0)
                out[i][..., c] = (x[..., c] - mean) / np.sqrt(variance + 1e-5)
        return out * p["scale"] + p["bias"]

    with float64():
        np.testing.assert_allclose(build(p)(jnp.asarray(X), given), g(p), **TIGHT)
    check_gradients(lambda p: build(p)(p["x"], given), g, p)

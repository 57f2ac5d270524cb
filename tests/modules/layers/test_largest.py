"""Maxima whose gradient is never 0 / 0."""

import jax
import jax.numpy as jnp
import numpy as np

from fusekit_modules.layers.largest import largest


def test_values_and_gradients_against_numpy():
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    weight = np.arange(12.0).reshape(3, 4).astype("float32")
    np.testing.assert_array_equal(largest(jnp.asarray(x), 1), x.max(axis=1))
    found = jax.grad(lambda v: jnp.sum(weight * largest(v, 1)))(jnp.asarray(x))
    due = weight[:, None] * (np.arange(5)[:, None] == x.argmax(axis=1)[:, None])
    np.testing.assert_array_equal(found, due)


def test_the_first_of_equals_has_the_gradient():
    found = jax.grad(lambda v: largest(v, 0))(jnp.array([1.0, 3.0, 3.0]))
    np.testing.assert_array_equal(found, [0.0, 1.0, 0.0])
    infinite = jax.grad(lambda v: jnp.where(True, 0.0, largest(v, 0)))(jnp.full(3, -jnp.inf))
    assert np.isfinite(infinite).all()

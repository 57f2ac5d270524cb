"""Activations with a slope of their own, against float64 forms and central differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.layers.activation import activation
from tests.modules.layers.harness import check_gradients, float64

X = np.concatenate([np.linspace(-6, 6, 49), [-30.0, 30.0, 0.0]])
FORMS = {
    "gelu": np.vectorize(lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients(name):
    f, g = activation(name), FORMS[name]
    with float64():
        np.testing.assert_allclose(f(jnp.asarray(X)), g(X), rtol=1e-12)
    check_gradients(lambda p: f(p["x"]), lambda p: g(p["x"]), {"x": X})


@pytest.mark.parametrize("name", FORMS)
def test_second_derivatives(name):
    f = activation(name)
    with float64():
        slope = jax.vmap(jax.grad(f))
        got = jax.vmap(jax.grad(jax.grad(f)))(jnp.asarray(X))
        want = (slope(jnp.asarray(X + 1e-5)) - slope(jnp.asarray(X - 1e-5))) / 2e-5
    np.testing.assert_allclose(got, want, atol=1e-8)


@pytest.mark.parametrize("name", FORMS)
def test_half_precision_is_rounded_once(name):
    """Value and slope are no farther off than half a unit in the last place, and a rounding of
    float32's 1."""
    f, g = activation(name), FORMS[name]
    x = jnp.asarray(X, jnp.bfloat16)
    wide = np.asarray(x, "float64")
    value, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
    assert value.dtype == slope.dtype == jnp.bfloat16
    exact = (g(wide + 1e-6) - g(wide - 1e-6)) / 2e-6
    for one, want, slack in ((value, g(wide), 4e-7 * np.abs(wide)), (slope, exact, 1e-6)):
        assert (np.abs(np.asarray(one, "float64") - want) <= 2**-8 * np.abs(want) + slack).all()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_array_is_kept(name, dtype):
    x = jax.ShapeDtypeStruct((3, 5), dtype)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(activation(name), x)[1], x))
    assert [leaf for leaf in kept if leaf.shape] == [x]

"""Linear maps and low-rank deltas against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.layered import LowRank
from fusekit_modules.layers.linear import Linear
from tests.modules.layers.harness import TIGHT, check_gradients, float64, randomised

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "axes"),
    [(3, 4, ("embed", "mlp")), (6, (2, 2), ("embed", "heads", "head_dim"))],
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_values_and_gradients(inputs, outputs, axes, per_sample):
    build, p = randomised(Linear(inputs, outputs, axes=axes, rngs=nnx.Rngs(0)))
    batch = (2,) if per_sample else ()
    p["x"] = RNG.normal(size=(2, 5, inputs))
    p["a"], p["b"] = RNG.normal(size=(*batch, inputs, 2)), RNG.normal(size=(*batch, 2, 4))

    def f(p):
        return build(p)(p["x"], [LowRank(p["a"], p["b"], 0.7), LowRank(p["a"], p["b"])])

    def g(p):
        kernel = p["kernel"].reshape(inputs, 4) + 1.7 * p["a"] @ p["b"]
        y = np.stack([x @ (kernel[i] if per_sample else kernel) for i, x in enumerate(p["x"])])
        return y.reshape(*y.shape[:-1], *p["bias"].shape) + p["bias"]

    with float64():
        np.testing.assert_allclose(f({k: jnp.asarray(v) for k, v in p.items()}), g(p), **TIGHT)
    check_gradients(f, g, p)


def test_inputs_of_two_axes():
    axes = ("heads", "head_dim", "embed")
    build, p = randomised(Linear((2, 3), 4, axes=axes, rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(2, 5, 2, 3))
    with float64():
        got = build(p)(jnp.asarray(x))
    want = np.einsum("bnhk,hkd->bnd", x, p["kernel"]) + p["bias"]
    np.testing.assert_allclose(got, want, **TIGHT)


def test_initial_scale_counts_all_inputs():
    kernel = Linear((8, 8), 64, axes=(None, None, None), rngs=nnx.Rngs(0)).kernel[...]
    np.testing.assert_allclose(np.std(np.asarray(kernel)), 1 / 8, rtol=0.05)


def test_computes_in_the_dtype_of_what_comes_in():
    linear = Linear(3, 2, axes=("embed", "mlp"), rngs=nnx.Rngs(0))
    delta = LowRank(jnp.ones((3, 1)), jnp.ones((1, 2)), 0.5)
    assert linear(jnp.ones((1, 3), jnp.bfloat16), [delta]).dtype == jnp.bfloat16

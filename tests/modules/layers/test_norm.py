"""Norms and their deltas against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.layered import NormDelta
from fusekit_modules.layers.norm import norm
from tests.modules.layers.harness import TIGHT, check_gradients, float64, randomised

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["layer", "rms"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_values_and_gradients(name, per_sample):
    build, p = randomised(norm(name, 4, rngs=nnx.Rngs(0)))
    shape = (2, 4) if per_sample else (4,)
    p["x"] = RNG.normal(size=(2, 3, 4))
    p["s"], p["t"] = RNG.normal(size=shape), RNG.normal(size=shape)

    def f(p):
        delta = NormDelta(p["s"], p["t"])
        return build(p)(p["x"], [delta, delta])

    def g(p):
        x = p["x"] - (p["x"].mean(-1, keepdims=True) if name == "layer" else 0)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        s, t = (p[k][:, None] if per_sample else p[k] for k in ("s", "t"))
        return x * (p["scale"] + 2 * s) + p.get("bias", 0) + 2 * t

    with float64():
        np.testing.assert_allclose(f({k: jnp.asarray(v) for k, v in p.items()}), g(p), **TIGHT)
    check_gradients(f, g, p)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_statistics_of_half_precision_are_taken_wide(name):
    x = jnp.asarray(RNG.normal(size=(2, 512)) * 1e3 + 1e3, jnp.bfloat16)
    module = norm(name, 512, rngs=nnx.Rngs(0))
    want = module(x.astype(jnp.float32))
    got = module(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_gradients_by_deltas_of_every_token(name):
    build, p = randomised(norm(name, 4, rngs=nnx.Rngs(0)))
    p |= {key: RNG.normal(size=(2, 3, 4)) for key in ("x", "s", "t")}

    def f(p):
        return build(p)(p["x"], [NormDelta(p["s"], p["t"])])

    def g(p):
        x = p["x"] - (p["x"].mean(-1, keepdims=True) if name == "layer" else 0)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * (p["scale"] + p["s"]) + p.get("bias", 0) + p["t"]

    check_gradients(f, g, p)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_half_precision_keeps_its_input_and_two_numbers_a_row(name):
    """And gradients are those of float64, rounded."""
    x = jnp.asarray(RNG.normal(size=(2, 3, 64)) * 3 + 1, jnp.bfloat16)
    weight = jnp.asarray(RNG.normal(size=x.shape), jnp.bfloat16)
    module = norm(name, 64, rngs=nnx.Rngs(0))
    _, pull = jax.vjp(module, x)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape[:2] == (2, 3)]
    assert sorted(leaf.shape[-1] for leaf in kept) == [*[1] * len(kept[1:]), 64]
    assert len(kept) == {"layer": 3, "rms": 2}[name]
    (got,) = pull(weight)

    def plain(x):
        x = x - (jnp.mean(x, -1, keepdims=True) if name == "layer" else 0)
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    with float64():
        _, pull = jax.vjp(plain, jnp.asarray(x, jnp.float64))
        (want,) = pull(jnp.asarray(weight, jnp.float64))
    np.testing.assert_allclose(np.asarray(got, "float64"), np.asarray(want), rtol=2**-8, atol=1e-4)

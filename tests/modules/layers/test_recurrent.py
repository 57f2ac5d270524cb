"""GRU and LSTM against loops over the valid steps alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit_modules.layers.recurrent import Recurrent
from tests.modules.layers.harness import TIGHT, check_gradients, float64, randomised

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5, 2))
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states(p, cell, x, order):
    """State by step, over the steps in the order given."""
    h = c = np.zeros(3)
    out = {}
    w, u, b = p["enter.kernel"], p["again.kernel"], p["enter.bias"]
    for t in order:
        drive = np.split(x[t] @ w + b, 3 if cell == "gru" else 4)
        again = np.split(h @ u + p.get("again.bias", 0), len(drive))
        if cell == "gru":
            r, z = sigmoid(drive[0] + again[0]), sigmoid(drive[1] + again[1])
            h = (1 - z) * np.tanh(drive[2] + r * again[2]) + z * h
        else:
            i, f, g, o = (a + b for a, b in zip(drive, again, strict=True))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        out[t] = h
    return out


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_values_and_gradients(cell, direction):
    build, p = randomised(Recurrent(2, 3, cell=cell, rngs=nnx.Rngs(0)))
    p["x"] = X

    def f(p):
        out = build(p)(p["x"], jnp.asarray(MASK), direction=direction)
        return jnp.where(MASK[..., None], out, 0)

    def g(p):
        out = np.zeros((3, 5, 3))
        for i, x in enumerate(p["x"]):
            steps = np.flatnonzero(MASK[i])
            steps = steps if direction == "forward" else steps[::-1]
            for t, h in states(p, cell, x, steps).items():
                out[i, t] = h
        return out

    with float64():
        np.testing.assert_allclose(f({k: jnp.asarray(v) for k, v in p.items()}), g(p), **TIGHT)
    check_gradients(f, g, p)


def test_padded_steps_keep_the_state():
    build, p = randomised(Recurrent(2, 3, rngs=nnx.Rngs(0)))
    with float64():
        out = build(p)(jnp.asarray(X), jnp.asarray(MASK))
    np.testing.assert_array_equal(out[0, 4], out[0, 2])
    np.testing.assert_array_equal(out[2, 0], np.zeros(3))


def test_forget_gates_start_open():
    bias = Recurrent(2, 3, cell="lstm", rngs=nnx.Rngs(0)).enter.bias[...]
    np.testing.assert_array_equal(bias, [0] * 3 + [1] * 3 + [0] * 6)

"""Convolutions and the residual block against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit_modules.layers.conv import Conv
from fusekit_modules.layers.residual import Residual
from tests.modules.layers.harness import TIGHT, check_gradients, float64, randomised

RNG = np.random.default_rng(0)


def conv(x, kernel, stride):
    """Of one sample, place by place; zeros beyond the border."""
    reach = [size // 2 for size in kernel.shape[:-2]]
    padded = np.pad(x, [(r, r) for r in reach] + [(0, 0)])
    counts = [-(-n // stride) for n in x.shape[:-1]]
    out = np.zeros((*counts, kernel.shape[-1]))
    for at in np.ndindex(*counts):
        window = tuple(
            slice(a * stride, a * stride + 2 * r + 1) for a, r in zip(at, reach, strict=True)
        )
        out[at] = np.tensordot(padded[window], kernel, axes=kernel.ndim - 1)
    return out


@pytest.mark.parametrize(
    ("kernel", "shape"), [((3,), (5, 2)), ((3, 1), (4, 5, 2)), ((5, 3), (4, 3, 2))]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients(kernel, shape, stride):
    build, p = randomised(Conv(2, 3, kernel=kernel, stride=stride, rngs=nnx.Rngs(0)))
    p["x"] = RNG.normal(size=(2, *shape))

    def f(p):
        return build(p)(p["x"])

    def g(p):
        return np.stack([conv(x, p["kernel"], stride) for x in p["x"]]) + p["bias"]

    with float64():
        np.testing.assert_allclose(f({k: jnp.asarray(v) for k, v in p.items()}), g(p), **TIGHT)
    check_gradients(f, g, p)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_of_what_is_valid(norm, stride):
    """Rows beyond each sample's length change nothing: the form is given the valid rows only."""
    build, p = randomised(Residual(2, 4, stride=stride, norm=norm, groups=2, rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(2, 6, 4, 2))
    sizes = [6, 4]
    mask = np.arange(6) < np.array(sizes)[:, None]
    context = Context("train", dtype=jnp.float64)

    def normal(ys, name):
        c = 4
        if norm == "batch":
            rows = np.concatenate([y.reshape(-1, c) for y in ys])
            ys = [(y - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) for y in ys]
        else:
            split = [y.reshape(*y.shape[:2], 2, 2) for y in ys]
            ys = [
                (
                    (y - y.mean((0, 1, 3), keepdims=True))
                    / np.sqrt(y.var((0, 1, 3), keepdims=True) + 1e-5)
                ).reshape(*y.shape[:2], c)
                for y in split
            ]
        return [y * p[f"{name}.norm.scale"] + p[f"{name}.norm.bias"] for y in ys]

    def layer(ys, name, stride):
        return normal([conv(y, p[f"{name}.conv.kernel"], stride) for y in ys], name)

    valid = [row[:size] for row, size in zip(x, sizes, strict=True)]
    hidden = [np.maximum(y, 0) for y in layer(valid, "first", stride)]
    skip = layer(valid, "skip", stride)
    want = [np.maximum(a + b, 0) for a, b in zip(layer(hidden, "second", 1), skip, strict=True)]
    with float64():
        out, after = build(p)(jnp.asarray(x), jnp.asarray(mask), None, context=context)
    for i, rows in enumerate(want):
        assert int(np.sum(after[i])) == len(rows)
        np.testing.assert_allclose(out[i][: len(rows)], rows, rtol=1e-9, atol=1e-9)

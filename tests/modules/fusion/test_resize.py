"""Interpolation of grids against float64 NumPy, and against `jax.image.resize`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Span, Stream, sequence
from fusekit_modules.fusion.resize import ResizeSpec
from tests.modules.fusion.harness import QUICK, check


def tent(size, after):
    """The weight of point j at place (i + 1/2) size / after - 1/2: 1 - distance, the ends held."""
    weights = np.zeros((after, size))
    for i in range(after):
        at = min(max((i + 0.5) * size / after - 0.5, 0), size - 1)
        for j in range(size):
            weights[i, j] = max(0.0, 1 - abs(at - j))
    return weights


def interpolated(x, before, after):
    """Over what is there, which leads; zeros where nothing is."""
    weights = np.kron(tent(before[0], after[0]), tent(before[1], after[1]))[:, : len(x)]
    mass = weights.sum(1, keepdims=True)
    return np.where(mass > 0, weights @ x / np.where(mass > 0, mass, 1), 0), mass[:, 0] > 0


@pytest.mark.parametrize("after", [(4, 3), (2, 1)])
def test_one_grid_with_padding(after):
    grid = (("height", 3), ("width", 2))
    spec = ResizeSpec(inputs=["m0"], grid=after, width=3)  # pyright: ignore

    def reference(p, xs):
        out, there = interpolated(xs[0], (3, 2), after)
        return np.where(there[:, None], out @ p["proj.kernel"] + p["proj.bias"], 0)

    check(spec, [sequence(6, 2, label="m0", padded=True, grid=grid)], reference)


def test_two_encoders_side_by_side():
    """A sample is there where both are; readout tokens are left out."""
    inputs = {
        "a": sequence(5, 2, spans=(Span("image", 1, readout=True), Span("image", 4))),
        "b": sequence(12, 3, label="image", padded=True, optional=True),
    }
    inputs["a"] = inputs["a"].with_(grid=(("height", 2), ("width", 2)))
    inputs["b"] = inputs["b"].with_(grid=(("height", 3), ("width", 4)))
    spec = ResizeSpec(inputs=["a", "b"], grid=(4, 4))  # pyright: ignore
    module = spec.build(inputs, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=(3, 5, 2)), "b": rng.normal(size=(3, 12, 3))}
    mask, presence = np.arange(12) < np.array([[12], [5], [12]]), np.array([True, True, False])
    values["b"][~(mask & presence[:, None])] = np.nan
    call = jax.jit(lambda streams: module(streams, context=Context()), compiler_options=QUICK)
    with jax.enable_x64(True):
        streams = {
            "a": Stream(jnp.asarray(values["a"]), spans=inputs["a"].spans),
            "b": Stream(
                jnp.asarray(values["b"]),
                jnp.asarray(mask),
                jnp.asarray(presence),
                spans=inputs["b"].spans,
            ),
        }
        out = call(streams)
        image = jnp.asarray(values["a"][0, 1:].reshape(2, 2, 2))
        other = jax.image.resize(image, (4, 4, 2), "linear", antialias=False)
    signature = spec.infer(inputs)
    assert (signature.width, signature.optional, signature.padded) == (5, True, True)
    assert signature.spans == out.spans == (Span("image", 16),)
    np.testing.assert_array_equal(out.presence, presence)
    for row in (0, 1):
        one, _ = interpolated(values["a"][row, 1:], (2, 2), (4, 4))
        two, there = interpolated(values["b"][row][mask[row]], (3, 4), (4, 4))
        np.testing.assert_array_equal(out.mask[row], there)
        want = np.where(there[:, None], np.concatenate([one, two], axis=1), 0)
        np.testing.assert_allclose(out.values[row], want, atol=1e-12)
    np.testing.assert_allclose(out.values[0, :, :2], np.asarray(other).reshape(16, 2), atol=1e-10)
    assert not np.any(out.values[2])


def test_refuses():
    given = sequence(6, 2, label="a", grid=(("height", 2), ("width", 3)))
    with pytest.raises(WiringError, match="other axes"):
        ResizeSpec(grid=(4,)).infer({"a": given})
    with pytest.raises(WiringError, match="no grid that is known"):
        ResizeSpec(grid=(4, 4)).infer({"a": given.with_(grid=())})

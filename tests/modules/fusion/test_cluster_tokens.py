"""k-means against NumPy, sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Span, Stream, sequence
from fusekit_modules.fusion.cluster_tokens import ClusterTokensSpec
from tests.modules.fusion.harness import QUICK, check, filled


def clusters(x, count, steps, temperature=None):
    """Means and mean places of the clusters that have something, in the order of the places."""

    def far(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    gap, chosen = far(x, x.mean(0)[None])[:, 0], []
    for _ in range(min(count, len(x))):
        chosen.append(int(np.argmax(gap)))
        gap = far(x, x[chosen]).min(1)
    centres = x[chosen]
    for _ in range(steps):
        gap = far(x, centres)
        if temperature is None:
            share = np.eye(len(centres))[gap.argmin(1)]
        else:
            share = np.exp(-gap / temperature)
            share = share / share.sum(1, keepdims=True)
        mass = share.sum(0)
        centres = share.T @ x / np.where(mass > 0, mass, 1)[:, None]
    places = share.T @ np.arange(len(x)) / np.where(mass > 0, mass, 1)
    order = [k for k in np.argsort(places, kind="stable") if mass[k] > 0]
    return centres[order], places[order]


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_against_numpy(temperature):
    fields = {"tokens": 3, "steps": 2, "temperature": temperature, "width": 4}
    spec = ClusterTokensSpec(inputs=["m0"], **fields)  # pyright: ignore

    def reference(p, xs):
        means, _ = clusters(xs[0], 3, 2, temperature)
        return filled(means @ p["proj.kernel"] + p["proj.bias"], 3, 4)

    check(spec, [sequence(6, 2, label="m0", padded=True)], reference)


def test_fewer_distinct_tokens_than_clusters():
    """Row 0 has two distinct tokens, row 1 three clear groups with padding between, row 2 none."""
    values = np.full((3, 6, 2), np.nan, "float32")
    values[0] = [[5, 0], [1, 0], [1, 0], [5, 0], [5, 0], [1, 0]]
    mask = np.array([[1] * 6, [1, 1, 0, 1, 1, 1], [0] * 6], bool)
    values[1, mask[1]] = [[9, 9], [0, 1], [0, 2], [-9, 8], [9, 8]]
    spec = ClusterTokensSpec(inputs=["a"], tokens=3, steps=3)  # pyright: ignore
    module = spec.build({"a": sequence(6, 2, label="a", padded=True)}, rngs=nnx.Rngs(0))
    call = jax.jit(lambda s: module({"a": s}, context=Context()), compiler_options=QUICK)
    out = call(Stream(jnp.asarray(values), jnp.asarray(mask), spans=(Span("a", 6),)))
    np.testing.assert_array_equal(out.mask, [[True, True, False], [True] * 3, [False] * 3])
    np.testing.assert_allclose(out.values[0], [[5, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(out.values[1], [[0, 1.5], [9, 8.5], [-9, 8]])
    np.testing.assert_array_equal(out.positions()[:2], [[2, 3, 0], [2, 2, 4]])


def test_refuses():
    with pytest.raises(WiringError, match="fewer tokens than clusters"):
        ClusterTokensSpec(tokens=7).infer({"a": sequence(6, 2, label="a")})

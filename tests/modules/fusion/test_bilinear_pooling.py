"""Compact and block bilinear pooling against the outer product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.stream import vector
from fusekit_modules.fusion._root import signed_root
from fusekit_modules.fusion.block_bilinear import BlockBilinearSpec
from fusekit_modules.fusion.compact_bilinear import CompactBilinearSpec, hashes
from tests.modules.fusion.harness import (
    Case,
    check,
    compare_garbage,
    compare_signatures,
    expected,
    inputs_of,
    patterns,
)
from tests.modules.layers.harness import check_gradients

WIDTHS = [3, 2, 4]


def rooted(x):
    root = x / np.sqrt(np.abs(x) + 1e-6)
    return root / np.sqrt(np.sum(root**2) + 1e-6)


def held(spec, reference):
    """Where roots of what may be zero are taken, values in float64 only: a root makes much of the
    rounding of a zero, and differences say little there. The roots are held by themselves."""
    if not spec.normalise:
        check(spec, WIDTHS, reference)
        return
    case = Case(spec, {f"m{i}": vector(width, optional=True) for i, width in enumerate(WIDTHS)})
    presence = patterns(3)
    given = case, inputs_of(case, len(presence)), presence
    want = expected(reference, case.parameters, *given[1:], ("out",), {})["out"]
    np.testing.assert_allclose(case.run(*given[1:])["out"].values, want, rtol=1e-9, atol=1e-9)
    compare_garbage(*given, ("out",))
    compare_signatures(*given)


@pytest.mark.parametrize(("width", "normalise"), [(5, False), (6, True)])
def test_compact_is_the_sketch_of_the_outer_product(width, normalise):
    """Entry (i, j, ...) goes, with the product of the signs, to the sum of the buckets."""

    def reference(p, xs):
        out = np.zeros(width)
        sketches = {k: hashes(3, k, WIDTHS[k], width) for k in xs}
        for entry in np.ndindex(*(WIDTHS[k] for k in xs)):
            places = list(zip(xs, entry, strict=True))
            value = np.prod([xs[k][i] * sketches[k][1][i] for k, i in places])
            out[sum(sketches[k][0][i] for k, i in places) % width] += value
        return rooted(out) if normalise else out

    held(CompactBilinearSpec(width=width, seed=3, normalise=normalise), reference)


@pytest.mark.parametrize(("blocks", "normalise"), [(2, True), (1, False)])
def test_blocks(blocks, normalise):
    size, rank = 3, 2

    def reference(p, xs):
        chunks = []
        for c in range(blocks):
            products = np.ones(rank * size)
            for k, x in xs.items():
                whole = x @ p[f"project.{k}.kernel"] + p[f"project.{k}.bias"]
                chunk = whole[c * size : (c + 1) * size]
                products = products * (chunk @ p["maps"][k, c] + p["biases"][k, c])
            pooled = sum(products[r * size : (r + 1) * size] for r in range(rank))
            chunks.append(rooted(pooled) if normalise else pooled)
        return np.concatenate(chunks) @ p["out.kernel"] + p["out.bias"]

    settings = {"blocks": blocks, "size": size, "rank": rank, "normalise": normalise}
    held(BlockBilinearSpec(**settings, width=4), reference)


def test_roots():
    x = np.random.default_rng(0).normal(size=(3, 4)) + np.array([3.0, -3.0, 3.0, -3.0])
    check_gradients(
        lambda a: signed_root(a["x"]), lambda a: np.stack([*map(rooted, a["x"])]), {"x": x}
    )
    grad = jax.grad(lambda x: jnp.sum(signed_root(x) * jnp.arange(3.0)))(jnp.zeros(3))
    assert np.all(np.isfinite(grad))
    assert np.all(np.asarray(signed_root(jnp.zeros(3))) == 0)

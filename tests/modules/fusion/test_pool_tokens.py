"""Pooling against float64 NumPy, window by window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, sequence
from fusekit_modules.fusion.pool_tokens import PoolTokensSpec
from tests.modules.fusion.harness import QUICK, check

GRID = (("height", 3), ("width", 4))


def adaptive(size, count):
    """Starts and stops, as adaptive pooling has them."""
    return [(i * size // count, int(np.ceil((i + 1) * size / count))) for i in range(count)]


def test_adaptive_mean_of_what_is_valid():
    spec = PoolTokensSpec(inputs=["m0"], tokens=(3,), width=4)  # pyright: ignore

    def reference(p, xs):
        each = np.stack([xs[0][a:b].mean(0) for a, b in adaptive(len(xs[0]), 3)])
        return each @ p["proj.kernel"] + p["proj.bias"]

    check(spec, [sequence(5, 2, label="m0", padded=True)], reference)


@pytest.mark.parametrize(
    ("how", "fields", "rows", "columns"),
    [
        ("mean", {"window": (2, 2)}, [(0, 2), (2, 3)], [(0, 2), (2, 4)]),
        ("max", {"tokens": (2, 3)}, adaptive(3, 2), adaptive(4, 3)),
    ],
)
def test_grids(how, fields, rows, columns):
    """Valid tokens lead, in the order of the rows: windows may hold padding, or nothing else."""
    spec = PoolTokensSpec(inputs=["m0"], how=how, **fields)  # pyright: ignore
    kept = {"mean": np.mean, "max": np.max}[how]

    def reference(p, xs):
        full = np.full((12, 2), np.nan)
        full[: len(xs[0])] = xs[0]
        full, out = full.reshape(3, 4, 2), []
        for a, b in rows:
            for c, d in columns:
                inside = full[a:b, c:d].reshape(-1, 2)
                inside = inside[~np.isnan(inside[:, 0])]
                out.append(kept(inside, axis=0) if len(inside) else np.zeros(2))
        return np.stack(out)

    case = check(spec, [sequence(12, 2, label="m0", padded=True, grid=GRID)], reference)
    signature = spec.infer(case.inputs)
    assert signature.grid == (("height", 2), ("width", len(columns)))


@pytest.mark.parametrize("how", ["mean", "max"])
def test_sequences_with_holes(how):
    """What is valid comes together, whether windows have a size or a number."""
    values = np.random.default_rng(0).normal(size=(3, 6, 2)).astype("float32")
    mask = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0] * 6], bool)
    signature, kept = sequence(6, 2, label="a", padded=True), {"mean": np.mean, "max": np.max}[how]
    specs = [
        PoolTokensSpec(inputs=["a"], how=how, window=(4,)),  # pyright: ignore
        PoolTokensSpec(inputs=["a"], how=how, tokens=(3,)),  # pyright: ignore
    ]
    modules = [spec.build({"a": signature}, rngs=nnx.Rngs(0)) for spec in specs]

    def run(stream):
        return [module({"a": stream}, context=Context()) for module in modules]  # pyright: ignore

    placed, chosen = jax.jit(run, compiler_options=QUICK)(
        Stream(jnp.asarray(values), jnp.asarray(mask), spans=signature.spans)
    )
    np.testing.assert_array_equal(placed.mask, [[True, False], [True, False], [False, False]])
    np.testing.assert_array_equal(chosen.mask, [[True] * 3, [True] * 3, [False] * 3])
    valid = values[0, mask[0]]
    np.testing.assert_allclose(placed.values[0], [kept(valid, axis=0), [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(placed.values[1], [values[1, 4], [0, 0]], rtol=1e-6)
    want = np.stack([kept(valid[a:b], axis=0) for a, b in adaptive(4, 3)])
    np.testing.assert_allclose(chosen.values[0], want, rtol=1e-6)
    np.testing.assert_allclose(chosen.values[1], np.stack([values[1, 4]] * 3), rtol=1e-6)


def test_refuses():
    given = sequence(12, 2, label="a", grid=GRID)
    with pytest.raises(WiringError, match="their size or their number"):
        PoolTokensSpec().infer({"a": given})
    with pytest.raises(WiringError, match="other axes"):
        PoolTokensSpec(window=(1, 2, 2)).infer({"a": given})
    assert PoolTokensSpec(window=(5,)).infer({"a": given}).length == 3

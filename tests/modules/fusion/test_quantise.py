"""Quantisation: nearest codes, moving averages, levels, and the gradient that passes through."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.standalone import standalone
from fusekit.stream import Signature, Stream, sequence, vector
from fusekit_modules.fusion._codes import scalar_levels
from fusekit_modules.fusion.quantise import QuantiseSpec

MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
HERE = np.array([True, True, False])
VALID = MASK & HERE[:, None]
GIVEN = sequence(4, 3, label="a", padded=True, optional=True)


def made(spec, given=GIVEN, seed=0):
    return standalone(spec, {"a": given}, rngs=nnx.Rngs(seed))


def book(module):
    sums, counts = (np.asarray(v[...], "float64") for v in (module.sums, module.counts))
    smooth = (counts + 1e-5) / (counts.sum() + len(counts) * 1e-5) * counts.sum()
    return sums / smooth[:, None]


def nearest(z, vectors):
    return np.array([np.argmin([np.sum((row - v) ** 2) for v in vectors]) for row in z])


def stream(x, garbage=np.nan):
    x = np.where(VALID[..., None], x, garbage).astype("float32")
    return {"a": Stream(jnp.asarray(x), jnp.asarray(MASK), jnp.asarray(HERE), spans=GIVEN.spans)}


def drawn(shape=(3, 4, 3)):
    return np.random.default_rng(1).normal(size=shape)


def test_codes_and_commitment():
    module = made(QuantiseSpec(codes=5, width=2))
    x = drawn()
    out = module(stream(x), context=Context())
    z = x @ np.asarray(module.project.kernel[...], "float64")
    vectors = book(module.codebook)
    for b in range(3):
        codes = np.zeros(4, int)
        codes[VALID[b]] = nearest(z[b][VALID[b]], vectors)
        np.testing.assert_array_equal(out["codes"].values[b], codes)
        values = np.where(VALID[b][:, None], vectors[codes], 0)
        np.testing.assert_allclose(out["out"].values[b], values, rtol=1e-5)
        gap = ((z[b] - vectors[codes]) ** 2).mean(axis=1)[VALID[b]]
        want = gap.mean() if len(gap) else 0
        np.testing.assert_allclose(out["commitment"].values[b], want, rtol=1e-5)
    np.testing.assert_array_equal(out["codes"].mask, MASK)


def test_averages_move_by_what_is_valid():
    """Over three steps, against the recurrence; rows that are absent or padded move nothing."""
    module = made(QuantiseSpec(codes=4, decay=0.8))
    counts, sums = np.ones(4), np.asarray(module.codebook.sums[...], "float64")
    for step in range(3):
        x = drawn() + step
        z, vectors = x[VALID], book(module.codebook)
        codes = nearest(z, vectors)
        module(stream(x), context=Context("train"))
        n = np.array([(codes == k).sum() for k in range(4)])
        total = np.stack([z[codes == k].sum(axis=0) for k in range(4)])
        counts, sums = 0.8 * counts + 0.2 * n, 0.8 * sums + 0.2 * total
        np.testing.assert_allclose(module.codebook.counts[...], counts, rtol=1e-5)
        np.testing.assert_allclose(module.codebook.sums[...], sums, rtol=1e-5, atol=1e-6)
    before = module.codebook.sums[...]
    module(stream(drawn()), context=Context())
    nothing = stream(drawn())["a"].with_(presence=jnp.zeros(3, bool))
    module({"a": nothing}, context=Context("train"))
    np.testing.assert_array_equal(module.codebook.sums[...], before)


def test_garbage_moves_nothing():
    found = []
    for garbage in (0.0, np.nan, np.inf, 1e30):
        module = made(QuantiseSpec(codes=4, width=2))
        out = module(stream(drawn(), garbage), context=Context("train"))
        found.append(
            [*jax.tree.leaves(out), module.codebook.sums[...], module.codebook.counts[...]]
        )
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_gradient_passes_straight_through():
    """As if the code were z; of the commitment, 2 (z - code) / size."""
    module = made(QuantiseSpec(codes=4), vector(3))
    x, weight = drawn((2, 3)).astype("float32"), drawn((2, 3)).astype("float32")

    def total(x, port):
        out = module({"a": Stream(x)}, context=Context())[port].values
        return jnp.sum(out * (weight if port == "out" else 1.0))

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(x), "out"), weight)
    vectors = book(module.codebook)
    want = 2 * (x - vectors[nearest(x, vectors)]) / 3
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(x), "commitment"), want, rtol=1e-4)


@pytest.mark.parametrize("levels", [(3, 5), (4, 2, 7)])
def test_levels(levels):
    """All codes are reached, their vectors lie on an even grid around zero, and zero stays zero."""
    z = np.array(list(itertools.product(np.linspace(-7, 7, 53), repeat=len(levels))))
    np.random.default_rng(0).shuffle(z)
    with jax.enable_x64(True):
        values, codes = (np.asarray(a) for a in scalar_levels(jnp.asarray(z), levels))
        grad = jax.grad(lambda z: jnp.sum(scalar_levels(z, levels)[0]))(jnp.asarray(z[:5]))
        zero, middle = scalar_levels(jnp.zeros((1, len(levels))), levels)
    assert set(codes) == set(range(np.prod(levels)))
    for k, n in enumerate(levels):
        places = np.round(values[:, k] * (n // 2)).astype(int)
        np.testing.assert_allclose(values[:, k], places / (n // 2), atol=1e-12)
        assert set(places) == set(range(-(n // 2), (n + 1) // 2))
        np.testing.assert_array_equal(codes // np.prod(levels[:k], dtype=int) % n, places + n // 2)
        half, odd = (n - 1) / 2 * (1 + 1e-3), n % 2
        shift = 0 if odd else np.arctanh(0.5 / half)
        slope = half * (1 - np.tanh(z[:5, k] + shift) ** 2) / (n // 2)
        np.testing.assert_allclose(grad[:, k], slope, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(zero, 0, atol=1e-12)
    assert int(middle[0]) == sum(
        n // 2 * np.prod(levels[:k], dtype=int) for k, n in enumerate(levels)
    )


def test_signatures():
    grid = Signature((("height", 2), ("width", 3), ("channel", 4)))
    out = QuantiseSpec(codes=7, width=2).infer({"a": grid})
    assert out["out"].shape == (2, 3, 2)
    assert (out["codes"].shape, out["codes"].classes, out["codes"].dtype) == ((2, 3), 7, "int")
    assert QuantiseSpec(levels=(3, 5)).infer({"a": grid})["codes"].classes == 15
    module = made(QuantiseSpec(codes=7), grid)
    found = module({"a": Stream(jnp.ones((2, 2, 3, 4)))}, context=Context())
    assert found["codes"].values.shape == (2, 2, 3)
    assert found["commitment"].values.shape == (2,)
    with pytest.raises(WiringError, match="not that of the levels"):
        QuantiseSpec(levels=(3, 5), width=3).infer({"a": grid})
    with pytest.raises(WiringError, match="no features"):
        QuantiseSpec().infer({"a": Signature((("time", 3),), "int", classes=4)})
    with pytest.raises(WiringError, match="number of inputs"):
        QuantiseSpec().infer({"a": grid, "b": grid})


def test_replicas():
    """Under vmap each replica moves its own averages."""
    spec = QuantiseSpec(codes=4)
    module = made(spec)
    graph, rest = nnx.split(module)

    def step(scale):
        own = nnx.merge(graph, jax.tree.map(lambda a: a * scale, rest))
        out = own(stream(drawn()), context=Context("train"))
        return out["out"].values, own.codebook.sums[...]

    both = jax.vmap(step)(jnp.asarray([1.0, 2.0]))
    for r, scale in enumerate((1.0, 2.0)):
        for a, b in zip(both, step(scale), strict=True):
            np.testing.assert_allclose(a[r], b, rtol=1e-6)

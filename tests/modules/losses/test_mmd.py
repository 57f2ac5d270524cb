import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.losses.mmd import MmdSpec
from tests.modules.losses.harness import gradient, inert, run, scalar

TWO = {"a": vector(3), "b": vector(3)}
ROWS = np.array([True, True, False, True, True])
BANDWIDTHS = (0.5, 1.0, 3.0)


def spec(**fields):
    return MmdSpec(**{"inputs": ["a", "b"], "bandwidths": BANDWIDTHS, **fields})


def drawn(offset=0.0):
    rng = np.random.default_rng(3)
    return rng.normal(size=(5, 3)) + offset, 0.5 * rng.normal(size=(5, 3)) + 1 + offset


def spread(x, y):
    """The root mean square distance of two different vectors."""
    both = [*x[ROWS], *y[ROWS]]
    pairs = [(i, j) for i in range(len(both)) for j in range(len(both)) if i != j]
    return np.sqrt(np.mean([np.sum((both[i] - both[j]) ** 2) for i, j in pairs]))


def reference(x, y, estimate, unit):
    """Pair by pair."""

    def kernel(u, v):
        square = np.sum((u - v) ** 2)
        return sum(np.exp(-square / (2 * (s * unit) ** 2)) for s in BANDWIDTHS)

    x, y = x[ROWS], y[ROWS]
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if estimate == "biased" or i != j]
    within = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs])
    return within - 2 * np.mean([kernel(u, v) for u in x for v in y])


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("estimate", ["unbiased", "biased"])
@pytest.mark.parametrize("role", ["a", "b"])
def test_against_numpy(relative, estimate, role):
    """The unit of the bandwidths has no gradient: it is held fixed in the differences."""
    x, y = drawn()
    unit = spread(x, y) if relative else 1.0
    chosen = spec(estimate=estimate, relative=relative)
    with jax.enable_x64(True):
        streams = {"a": Stream(jnp.asarray(x)), "b": Stream(jnp.asarray(y))}

        def loss(values):
            return scalar(run(chosen, TWO, {**streams, role: Stream(values)}, ROWS))

        def plain(values):
            return reference(*((values, y) if role == "a" else (x, values)), estimate, unit)

        gradient(loss, x if role == "a" else y, plain)
        inert(chosen, TWO, streams, ROWS, role=role)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("estimate", ["unbiased", "biased"])
def test_in_float32(offset, estimate):
    """Far from the origin too."""
    x, y = (v.astype("float32") for v in drawn(offset))
    streams = {"a": Stream(jnp.asarray(x)), "b": Stream(jnp.asarray(y))}
    found = float(scalar(run(spec(estimate=estimate), TWO, streams, ROWS)))
    x, y = x.astype("float64"), y.astype("float64")
    np.testing.assert_allclose(found, reference(x, y, estimate, spread(x, y)), rtol=1e-5)


def test_of_equal_inputs():
    x, _ = drawn()
    streams = {name: Stream(jnp.asarray(x, "float32")) for name in "ab"}

    def loss(values):
        return scalar(run(spec(estimate="biased"), TWO, {**streams, "a": Stream(values)}, ROWS))

    value, grad = jax.value_and_grad(loss)(streams["a"].values)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


@pytest.mark.parametrize(("estimate", "weight"), [("unbiased", 0), ("biased", 1)])
def test_one_row(estimate, weight):
    """Without pairs the unbiased estimate does not exist."""
    x, y = drawn()
    streams = {"a": Stream(jnp.asarray(x)), "b": Stream(jnp.asarray(y))}
    out = run(spec(estimate=estimate), TWO, streams, np.arange(5) == 1)
    assert float(jnp.sum(out.weight)) == weight
    assert (float(jnp.sum(out.total)) > 0) == bool(weight)


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({name: vector(3) for name in "abc"})
    with pytest.raises(WiringError, match="differ in embed"):
        spec().check({"a": vector(3), "b": vector(4)})

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.losses.siglip import SiglipSpec
from tests.modules.losses.harness import gradient, inert, run, scalar

TWO = {"a": vector(3), "b": vector(3)}
ROWS = np.array([True, True, False, True, True])


def spec(**fields):
    return SiglipSpec(**{"inputs": ["a", "b"], **fields})


def drawn(dtype="float64"):
    rng = np.random.default_rng(3)
    return [rng.normal(size=(5, 3)).astype(dtype) for _ in "ab"]


def reference(vectors, rows, temperature, bias):
    """Pair by pair."""
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in np.asarray(vectors, "float64"))
    index = np.flatnonzero(rows)
    total = 0.0
    for i in index:
        for j in index:
            logit = a[i] @ b[j] / temperature + bias
            chance = 1 / (1 + np.exp(-logit))
            total -= np.log(chance if i == j else 1 - chance)
    return total / max(len(index), 1)


@pytest.mark.parametrize(("temperature", "bias"), [(0.1, -10.0), (1.0, 0.5)])
@pytest.mark.parametrize("side", [0, 1])
def test_against_numpy(temperature, bias, side):
    vectors = drawn()
    chosen = spec(temperature=temperature, bias=bias, learn=False)
    with jax.enable_x64(True):
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip("ab", vectors, strict=True)}

        def loss(values):
            return scalar(run(chosen, TWO, {**streams, "ab"[side]: Stream(values)}, ROWS))

        def plain(values):
            both = [values, vectors[1]] if side == 0 else [vectors[0], values]
            return reference(both, ROWS, temperature, bias)

        gradient(loss, vectors[side], plain)
        inert(chosen, TWO, streams, ROWS, role="ab"[side])


def test_in_float32():
    vectors = drawn("float32")
    streams = {n: Stream(jnp.asarray(v)) for n, v in zip("ab", vectors, strict=True)}
    found = float(scalar(run(spec(), TWO, streams, ROWS)))
    np.testing.assert_allclose(found, reference(vectors, ROWS, 0.1, -10.0), rtol=1e-5)


@pytest.mark.parametrize("which", ["scale", "bias"])
def test_temperature_and_bias_are_learned(which):
    vectors = drawn()
    module = spec(temperature=0.5, bias=-1.0).build(TWO, rngs=nnx.Rngs(0))
    graph, params = nnx.split(module, nnx.Param)
    start = nnx.to_pure_dict(params)
    assert set(start) == {"scale", "bias"}
    with jax.enable_x64(True):
        fixed = {"scale": jnp.asarray(np.log(2.0)), "bias": jnp.asarray(-1.0)}
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip("ab", vectors, strict=True)}

        def loss(value):
            merged = nnx.merge(graph, nnx.State({**fixed, which: value}))
            return scalar(merged(streams, rows=jnp.asarray(ROWS), context=Context()))

        def plain(value):
            values = {**{k: float(v) for k, v in fixed.items()}, which: float(value)}
            return reference(vectors, ROWS, np.exp(-values["scale"]), values["bias"])

        gradient(loss, np.asarray(fixed[which]), plain)


def test_nothing_there():
    streams = {name: Stream(jnp.full((3, 3), jnp.nan)) for name in "ab"}
    out = run(spec(), TWO, streams, [False] * 3)
    assert not np.any(out.total)
    assert not np.any(out.weight)


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({name: vector(3) for name in "abc"})
    with pytest.raises(WiringError, match="differ in embed"):
        spec().check({"a": vector(3), "b": vector(4)})

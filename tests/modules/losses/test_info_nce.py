import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, vector
from fusekit_modules.losses.info_nce import InfoNceSpec
from tests.modules.losses.harness import gradient, inert, run, scalar

TWO = {"a": vector(3), "b": vector(3)}


def spec(**fields):
    return InfoNceSpec(**{"inputs": ["a", "b"], **fields})


def reference(vectors, rows, temperature, keys=None, cosine=True):
    """Mean over rows, one row and direction at a time."""
    index = np.flatnonzero(rows)
    if cosine:
        vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    keys = np.arange(len(rows)) if keys is None else keys
    found = []
    for i in index:
        for m, a in enumerate(vectors):
            for b in vectors[m + 1 :]:
                for query, others in ((a, b), (b, a)):
                    logits = np.array([query[i] @ others[j] / temperature for j in index])
                    log_p = logits - np.log(np.exp(logits).sum())
                    found.append(-log_p[keys[index] == keys[i]].mean())
    return np.mean(found)


@pytest.mark.parametrize("fields", [{"learn": False}, {"similarity": "dot", "temperature": 1.0}])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("keys", [None, [0, 1, 0, 1, 2]])
def test_against_numpy(fields, count, keys):
    rng, names = np.random.default_rng(5), ["a", "b", "c"][:count]
    vectors = [rng.normal(size=(5, 3)) for _ in names]
    rows = np.array([True, True, True, False, True])
    chosen = spec(inputs=names, positives=None if keys is None else "batch.group", **fields)
    inputs = {name: vector(3) for name in names}
    with jax.enable_x64(True):
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip(names, vectors, strict=True)}
        if keys is not None:
            inputs["positives"] = Signature((), dtype="int", classes=3)
            streams["positives"] = Stream(jnp.asarray(keys))

        def loss(values):
            return scalar(run(chosen, inputs, {**streams, "a": Stream(values)}, rows))

        temperature, cosine = fields.get("temperature", 0.07), "similarity" not in fields
        key_array = None if keys is None else np.asarray(keys)

        def plain(values):
            return reference([values, *vectors[1:]], rows, temperature, key_array, cosine)

        gradient(loss, vectors[0], plain)
        inert(chosen, inputs, streams, rows, role="a")


def test_temperature_is_learned_and_bounded():
    rng = np.random.default_rng(2)
    vectors, rows = [rng.normal(size=(4, 3)) for _ in "ab"], np.ones(4, bool)
    graph, params = nnx.split(spec(temperature=0.5).build(TWO, rngs=nnx.Rngs(0)), nnx.Param)
    with jax.enable_x64(True):
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip("ab", vectors, strict=True)}

        def loss(value):
            merged = nnx.merge(graph, jax.tree.map(lambda _: value, params))
            return scalar(merged(streams, rows=jnp.asarray(rows), context=Context()))

        np.testing.assert_allclose(jax.tree.leaves(params)[0], np.log(2.0), rtol=1e-6)
        at = np.asarray(np.log(2.0))
        gradient(loss, at, lambda value: reference(vectors, rows, np.exp(-value)))
        assert float(loss(jnp.float64(9))) == float(loss(jnp.float64(99)))


@pytest.mark.parametrize("well", [True, False])
def test_beyond_the_bound_the_temperature_may_return_but_not_go_on(well):
    """Vectors that agree want it colder, those that do not want it warmer; at a bound of 0.1, where
    this is no matter of rounding."""
    a = np.random.default_rng(4).normal(size=(4, 3))
    streams = {"a": Stream(jnp.asarray(a)), "b": Stream(jnp.asarray(a if well else a[::-1]))}
    graph, params = nnx.split(spec(least=0.1).build(TWO, rngs=nnx.Rngs(0)), nnx.Param)

    def loss(value):
        merged = nnx.merge(graph, jax.tree.map(lambda _: value, params))
        return scalar(merged(streams, rows=jnp.ones(4, bool), context=Context()))

    bound = float(np.log(10.0))
    inside, beyond = (float(jax.grad(loss)(jnp.float32(bound + s))) for s in (-1e-3, 0.5))
    assert (inside < 0) == well
    if well:
        assert beyond == 0.0
    else:
        np.testing.assert_allclose(beyond, inside, rtol=1e-2)


def test_one_row_has_no_negatives():
    streams = {name: Stream(jnp.ones((3, 3))) for name in "ab"}
    out = run(spec(learn=False), TWO, streams, [True, False, False])
    np.testing.assert_allclose(out.total, 0.0, atol=1e-6)


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({"a": vector(3)})
    with pytest.raises(WiringError, match="differ in embed"):
        spec().check({"a": vector(3), "b": vector(4)})

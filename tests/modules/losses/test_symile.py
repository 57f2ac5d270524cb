import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.conformance.cases import Case
from fusekit.conformance.run import failures
from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.losses.symile import SymileSpec
from tests.modules.losses.harness import gradient, inert, run, scalar

ROWS = np.array([True, False, True, True])


def spec(names="abc", **fields):
    return SymileSpec(**{"inputs": list(names), **fields})


def reference(vectors, rows, temperature, negatives):
    """One row, one anchor and one combination at a time."""
    index = np.flatnonzero(rows)
    vectors = [np.asarray(v, "float64") for v in vectors]
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    found = []
    for i in index:
        own = sum(np.prod([v[i] for v in vectors], axis=0)) / temperature
        for m, anchor in enumerate(vectors):
            others = vectors[:m] + vectors[m + 1 :]
            combinations = itertools.product(index, repeat=len(others))
            if negatives == "samples":
                combinations = [(j,) * len(others) for j in index]
            total = 0.0
            for rows_of_others in combinations:
                picked = [v[j] for v, j in zip(others, rows_of_others, strict=True)]
                total += np.exp(np.sum(np.prod([anchor[i], *picked], axis=0)) / temperature)
            found.append(np.log(total) - own)
    return np.mean(found)


@pytest.mark.parametrize("names", ["abc", "abcd"])
@pytest.mark.parametrize("negatives", ["all", "samples"])
def test_against_numpy(names, negatives):
    rng = np.random.default_rng(5)
    vectors = [rng.normal(size=(4, 3)) for _ in names]
    inputs = {name: vector(3) for name in names}
    chosen = spec(names, negatives=negatives, temperature=0.2, learn=False)
    with jax.enable_x64(True):
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip(names, vectors, strict=True)}

        def loss(values):
            return scalar(run(chosen, inputs, {**streams, "b": Stream(values)}, ROWS))

        def plain(values):
            return reference([vectors[0], values, *vectors[2:]], ROWS, 0.2, negatives)

        gradient(loss, vectors[1], plain)
        inert(chosen, inputs, streams, ROWS, role="b")


@pytest.mark.slow
def test_in_float32():
    rng = np.random.default_rng(6)
    vectors = [rng.normal(size=(4, 8)).astype("float32") for _ in "abc"]
    streams = {n: Stream(jnp.asarray(v)) for n, v in zip("abc", vectors, strict=True)}
    found = float(scalar(run(spec(), {n: vector(8) for n in "abc"}, streams, ROWS)))
    np.testing.assert_allclose(found, reference(vectors, ROWS, 0.07, "all"), rtol=1e-5)


@pytest.mark.parametrize("settings", SymileSpec.examples())
def test_laws(settings):
    inputs = {f"m{i}": vector(8, optional=True) for i in range(3)}
    case = Case(SymileSpec(**{**settings, "inputs": list(inputs)}), inputs, "3 x vector")
    assert not list(failures(case))


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({name: vector(3) for name in "ab"})

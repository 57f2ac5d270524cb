"""Reconstruction of patches, cosines and changes of states against NumPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.conformance.laws import quick
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.standalone import standalone
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.fusion.sequential import SequentialSpec
from fusekit_modules.losses.change import ChangeSpec
from fusekit_modules.losses.cosine import CosineSpec
from fusekit_modules.losses.reconstruction import ReconstructionSpec
from fusekit_modules.losses.squared_error import SquaredErrorSpec
from tests.modules.losses.harness import fast, gradient, inert, run, scalar

PAIR = {"prediction": "head", "target": "batch.x"}


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_hidden_patches(normalise, error):
    rng = np.random.default_rng(0)
    guess, patches = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5)) * 3 + 1
    hidden, mask = rng.random((3, 4)) < 0.6, rng.random((3, 4)) < 0.8
    flag = Signature((("time", 4),), "bool", (Span("", 4),), padded=True)
    inputs = {"prediction": sequence(4, 5), "target": sequence(4, 5, padded=True), "where": flag}
    where = {"where": "batch.masked.hidden"}
    spec = ReconstructionSpec(normalise=normalise, error=error, **PAIR, **where)
    valid = hidden & mask
    target = patches
    if normalise:
        mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, keepdims=True, ddof=1)
        target = (patches - mean) / (variance + 1e-6) ** 0.5
    with jax.enable_x64(True):
        there = np.where(mask[..., None], patches, np.nan)
        streams = {
            "target": Stream(jnp.asarray(there), jnp.asarray(mask)),
            "where": Stream(jnp.asarray(hidden), jnp.asarray(mask)),
        }

        def loss(values):
            return scalar(run(spec, inputs, {"prediction": Stream(values), **streams}))

        def plain(values):
            gap = values - target
            return (np.abs(gap) if error == "absolute" else gap**2).mean(-1)[valid].mean()

        grad = gradient(loss, guess, plain)
        assert not grad[~valid].any()


@pytest.mark.parametrize("tokens", [False, True])
def test_cosine(tokens):
    rng = np.random.default_rng(1)
    shape = (4, 2, 3) if tokens else (4, 3)
    one, other = rng.normal(size=shape), rng.normal(size=shape)
    rows, mask = np.array([True, False, True, True]), rng.random((4, 2)) < 0.7
    made = sequence(2, 3, padded=True) if tokens else vector(3)
    valid = rows[:, None] & mask if tokens else rows
    spec = CosineSpec(**PAIR)

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    with jax.enable_x64(True):
        marks = jnp.asarray(mask) if tokens else None
        target = Stream(jnp.asarray(other), marks)
        inputs = {"prediction": made, "target": made}

        def loss(values):
            streams = {"prediction": Stream(values, marks), "target": target}
            return scalar(run(spec, inputs, streams, rows))

        gradient(loss, one, lambda v: (1 - (unit(v) * unit(other)).sum(-1))[valid].mean())
        inert(spec, inputs, {"prediction": Stream(jnp.asarray(one), marks), "target": target}, rows)


def test_changes_are_from_each_step_taken_to_the_next():
    rng = np.random.default_rng(2)
    states = rng.normal(size=(4, 5, 3))
    taken = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 0, 1, 0]], bool)
    rows = np.array([True, True, True, True])
    spans = (Span("start", 4), Span("start", 1, readout=True))
    inputs = {"s": sequence(5, 3, spans=spans, padded=True)}
    spec = ChangeSpec(inputs=["s"])

    def plain(values):
        found = []
        for row, steps in zip(values, taken, strict=True):
            seen = row[:4][steps[:4]]
            found += [((b - a) ** 2).mean() for a, b in pairwise(seen)]
        assert len(found) == 4  # 3, 1, none, none: a readout token is no step
        return np.mean(found)

    with jax.enable_x64(True):
        given = Stream(jnp.asarray(states), jnp.asarray(taken), spans=spans)

        def loss(values):
            return scalar(run(spec, inputs, {"s": given.with_(values=values)}, rows))

        grad = gradient(loss, states, plain)
        assert not grad[~taken].any()
        inert(spec, inputs, {"s": given}, np.array([True, False, True, True]), role="s")


def test_the_chain_s_own_ports_say_the_same():
    """The steps of `sequential` give what the squared error of `before` and `after` gives."""
    inputs = {"a": vector(2, optional=True), "b": vector(3, optional=True)}
    chain = standalone(SequentialSpec(inputs=["a", "b"], width=4), inputs, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(3)
    present = jnp.asarray([[True, True], [False, True], [True, False], [False, False]])
    streams = {
        name: Stream(
            jnp.asarray(rng.normal(size=(4, width)).astype("float32")), None, present[:, k]
        )
        for k, (name, width) in enumerate([("a", 2), ("b", 3)])
    }
    out = quick(lambda given: chain(given, context=Context()))(streams)
    rows = np.array([True, True, True, False])
    steps = ChangeSpec(inputs=["steps"])
    ports = SquaredErrorSpec(prediction="after", target="before")
    one = fast(steps, {"steps": sequence(3, 4, padded=True)}, {"steps": out["steps"]}, rows)
    made = dict.fromkeys(("prediction", "target"), sequence(2, 4, padded=True))
    other = fast(ports, made, {"prediction": out["after"], "target": out["before"]}, rows)
    np.testing.assert_array_equal(one.weight, [2, 1, 1, 0])
    np.testing.assert_array_equal(other.weight, one.weight)
    np.testing.assert_allclose(one.total, other.total, rtol=1e-5)


def test_misfits():
    with pytest.raises(WiringError, match="sequence is due"):
        ReconstructionSpec(**PAIR).check({"prediction": vector(3), "target": vector(3)})
    with pytest.raises(WiringError, match="no deviation"):
        ReconstructionSpec(**PAIR, normalise=True).check(
            {"prediction": sequence(3, 1), "target": sequence(3, 1)}
        )
    with pytest.raises(WiringError, match="holds no vectors"):
        CosineSpec(**PAIR).check({"prediction": Signature(()), "target": vector(3)})
    with pytest.raises(WiringError, match="shapes"):
        CosineSpec(**PAIR).check({"prediction": vector(2), "target": vector(3)})
    with pytest.raises(WiringError, match="sequence is due"):
        ChangeSpec(inputs=["a"]).check({"a": vector(3)})

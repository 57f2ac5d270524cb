import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.losses.cross_entropy import CrossEntropySpec
from tests.modules.losses.harness import gradient, inert, run, scalar

LABEL = Signature((), dtype="int", classes=3)
TOKENS = Signature((("time", 4),), dtype="int", spans=(Span("", 4),), padded=True, classes=3)
HEAD = {"prediction": vector(3), "target": LABEL}
TAGS = {"prediction": sequence(4, 3, padded=True), "target": TOKENS}


def spec(**fields):
    return CrossEntropySpec(**{"prediction": "head", "target": "batch.label", **fields})


def reference(logits, target, smoothing=0.0, weights=None):
    """One row: (total, weight), in plain NumPy."""
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights)
    p = np.exp(logits) / np.exp(logits).sum()
    nll = -np.log(p)
    wanted = (1 - smoothing) * weights[target] * nll[target]
    return wanted + smoothing / len(p) * (weights * nll).sum(), weights[target]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_uniform_logits_give_log_of_classes():
    streams = {"prediction": Stream(jnp.zeros((2, 3))), "target": Stream(jnp.asarray([0, 2]))}
    out = run(spec(), HEAD, streams)
    np.testing.assert_allclose(out.total, np.log([3.0, 3.0]), rtol=1e-6)
    np.testing.assert_array_equal(out.weight, [1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 3.0)])
def test_against_numpy(rng, smoothing, weights):
    logits, target = rng.normal(size=(4, 3)) * 3, np.array([0, 2, 1, 1])
    rows = np.array([True, True, False, True])
    chosen = spec(smoothing=smoothing, class_weights=weights)
    with jax.enable_x64(True):
        label = Stream(jnp.asarray(target))

        def loss(values):
            return scalar(run(chosen, HEAD, {"prediction": Stream(values), "target": label}, rows))

        def plain(values):
            each = zip(values[rows], target[rows], strict=True)
            parts = [reference(v, t, smoothing, weights or None) for v, t in each]
            return sum(total for total, _ in parts) / sum(weight for _, weight in parts)

        gradient(loss, logits, plain)
        inert(chosen, HEAD, {"prediction": Stream(jnp.asarray(logits)), "target": label}, rows)


def test_tokens_count_singly(rng):
    logits, target = rng.normal(size=(3, 4, 3)), rng.integers(0, 3, size=(3, 4))
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    known = np.array([[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], bool)
    where = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]], bool)
    rows = np.array([True, True, True])
    inputs = {**TAGS, "where": TOKENS.with_(dtype="bool", classes=None)}
    with jax.enable_x64(True):
        streams = {
            "target": Stream(jnp.asarray(target), mask=jnp.asarray(known)),
            "where": Stream(jnp.asarray(where)),
        }

        def loss(values):
            given = Stream(values, mask=jnp.asarray(mask))
            return scalar(run(spec(), inputs, {"prediction": given, **streams}, rows))

        valid = mask & known & where

        def plain(values):
            places = np.argwhere(valid)
            return np.mean([reference(values[i, t], target[i, t])[0] for i, t in places])

        grad = gradient(loss, logits, plain)
        assert np.all(grad[~valid] == 0)
        poisoned = np.where(valid[..., None], logits, np.nan)
        np.testing.assert_array_equal(loss(jnp.asarray(poisoned)), loss(jnp.asarray(logits)))


def test_weight_is_number_of_tokens():
    mask = jnp.asarray([[True, True, False, False], [False] * 4])
    streams = {
        "prediction": Stream(jnp.zeros((2, 4, 3)), mask=mask),
        "target": Stream(jnp.zeros((2, 4), int), mask=mask),
    }
    np.testing.assert_array_equal(run(spec(), TAGS, streams).weight, [2, 0])


def test_constant_target_and_row_where():
    chosen = spec(target=1, where="batch.flag")
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]])
    inputs = {"prediction": vector(2), "where": Signature((), dtype="int", classes=2)}
    streams = {"prediction": Stream(jnp.asarray(logits)), "where": Stream(jnp.asarray([1, 1, 0]))}
    out = run(chosen, inputs, streams)
    np.testing.assert_allclose(out.total, [np.log1p(np.exp(-1)), np.log1p(np.exp(2)), 0], rtol=1e-6)
    np.testing.assert_array_equal(out.weight, [1, 1, 0])


def test_no_row_gives_zero_and_zero_gradient():
    label = Stream(jnp.asarray([0, 1]))

    def loss(values):
        streams = {"prediction": Stream(values), "target": label}
        return scalar(run(spec(), HEAD, streams, [False, False]))

    value, grad = jax.value_and_grad(loss)(jnp.full((2, 3), jnp.nan))
    assert float(value) == 0.0
    assert np.all(np.asarray(grad) == 0)


@pytest.mark.parametrize(
    ("fields", "inputs", "words"),
    [
        ({}, {**HEAD, "prediction": vector(4)}, "classes: 3"),
        ({}, {**TAGS, "target": LABEL}, ".mean, .first"),
        ({}, {**HEAD, "target": Signature(())}, "holds no classes"),
        ({}, {**TAGS, "prediction": sequence(5, 3)}, "5 positions"),
        ({"target": 3}, {"prediction": vector(3)}, "no such class"),
        ({"class_weights": [1.0]}, HEAD, "one weight a class"),
        ({"where": "batch.x"}, {**HEAD, "where": vector(2)}, "marks neither"),
        ({}, {**HEAD, "prediction": LABEL}, "no logits"),
    ],
)
def test_misfits(fields, inputs, words):
    with pytest.raises(WiringError) as error:
        spec(**fields).check(inputs)
    assert words in str(error.value.problem)

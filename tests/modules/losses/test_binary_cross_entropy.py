import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, vector
from fusekit_modules.losses.binary_cross_entropy import BinaryCrossEntropySpec
from tests.modules.losses.harness import gradient, inert, run, scalar

INPUTS = {"prediction": vector(3), "target": vector(3)}


def spec(**fields):
    return BinaryCrossEntropySpec(**{"prediction": "head", "target": "batch.labels", **fields})


def reference(logits, target, smoothing=0.0, positive=1.0):
    target = (1 - smoothing) * target + smoothing / 2
    p = 1 / (1 + np.exp(-logits))
    return -(positive * target * np.log(p) + (1 - target) * np.log(1 - p)).mean(axis=1)


@pytest.mark.parametrize(
    "fields",
    [{}, {"smoothing": 0.1}, {"positive_weight": 2.5}, {"positive_weight": [1.0, 2.0, 4.0]}],
)
def test_against_numpy(fields):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(4, 3)), rng.integers(0, 2, size=(4, 3)).astype(float)
    rows = np.array([True, False, True, True])
    chosen = spec(**fields)
    with jax.enable_x64(True):
        labels = Stream(jnp.asarray(target))

        def loss(values):
            streams = {"prediction": Stream(values), "target": labels}
            return scalar(run(chosen, INPUTS, streams, rows))

        positive = np.asarray(fields.get("positive_weight", 1.0))
        smoothing = fields.get("smoothing", 0.0)

        def plain(values):
            return reference(values, target, smoothing, positive)[rows].mean()

        gradient(loss, logits, plain)
        inert(chosen, INPUTS, {"prediction": Stream(jnp.asarray(logits)), "target": labels}, rows)


def test_large_logits_stay_finite():
    streams = {
        "prediction": Stream(jnp.asarray([[1e4, -1e4, 0.0]])),
        "target": Stream(jnp.asarray([[0.0, 0.0, 1.0]])),
    }
    np.testing.assert_allclose(
        run(spec(), INPUTS, streams).total, [(1e4 + np.log(2)) / 3], rtol=1e-6
    )


@pytest.mark.parametrize("value", [0, 1, 0.9])
def test_constant_target(value):
    logits = np.array([[0.3, -0.2]])
    out = run(
        spec(target=value), {"prediction": vector(2)}, {"prediction": Stream(jnp.asarray(logits))}
    )
    np.testing.assert_allclose(out.total, reference(logits, np.full((1, 2), value)), rtol=1e-6)


def test_scalar_target_of_two_classes():
    inputs = {"prediction": vector(1), "target": Signature((), dtype="int", classes=2)}
    logits, target = np.array([[0.5], [-1.0]]), np.array([1, 0])
    streams = {"prediction": Stream(jnp.asarray(logits)), "target": Stream(jnp.asarray(target))}
    expected = reference(logits, target[:, None])
    np.testing.assert_allclose(run(spec(), inputs, streams).total, expected, rtol=1e-6)


def test_misfits():
    with pytest.raises(WiringError, match="numbers of labels"):
        spec().check({"prediction": vector(3), "target": vector(2)})
    with pytest.raises(WiringError, match="one weight a label"):
        spec(positive_weight=(1.0, 2.0)).check(INPUTS)
    with pytest.raises(ValueError, match="target"):
        spec(target=1.5)

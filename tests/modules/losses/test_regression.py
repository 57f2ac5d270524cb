import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, sequence, vector
from fusekit_modules.losses.absolute_error import AbsoluteErrorSpec
from fusekit_modules.losses.huber import HuberSpec
from fusekit_modules.losses.squared_error import SquaredErrorSpec
from tests.modules.losses.harness import gradient, inert, run, scalar

NAMES = {"prediction": "head", "target": "batch.y"}
CASES = [
    (SquaredErrorSpec(**NAMES), lambda e: e**2),
    (AbsoluteErrorSpec(**NAMES), abs),
    (HuberSpec(**NAMES, delta=0.5), lambda e: e**2 / 2 if abs(e) <= 0.5 else 0.5 * (abs(e) - 0.25)),
]
SHAPES = [
    (vector(3), vector(3)),
    (vector(1), Signature(())),
    (sequence(4, 2), sequence(4, 2)),
    (Signature((("height", 2), ("width", 2), ("channel", 1))),) * 2,
]


@pytest.mark.parametrize(("spec", "penalty"), CASES)
@pytest.mark.parametrize("shapes", SHAPES)
def test_against_numpy(spec, penalty, shapes):
    rng = np.random.default_rng(1)
    inputs = dict(zip(NAMES, shapes, strict=True))
    prediction = rng.normal(size=(4, *shapes[0].shape))
    target = rng.normal(size=(4, *shapes[1].shape))
    rows = np.array([True, True, False, True])
    with jax.enable_x64(True):
        given = Stream(jnp.asarray(target))

        def loss(values):
            return scalar(run(spec, inputs, {"prediction": Stream(values), "target": given}, rows))

        def plain(values):
            difference = (values - target.reshape(values.shape))[rows]
            return np.mean([penalty(float(e)) for e in difference.flat])

        gradient(loss, prediction, plain)
        streams = {"prediction": Stream(jnp.asarray(prediction)), "target": given}
        inert(spec, inputs, streams, rows)
        inert(spec, inputs, streams, rows, role="target")


def test_padded_positions_do_not_count():
    spec, inputs = (
        CASES[0][0],
        {"prediction": sequence(3, 2, padded=True), "target": sequence(3, 2)},
    )
    mask = np.array([[True, True, False], [True, False, False]])
    values = np.where(mask[..., None], np.full((2, 3, 2), 2.0), np.nan)
    streams = {
        "prediction": Stream(jnp.asarray(values), mask=jnp.asarray(mask)),
        "target": Stream(jnp.zeros((2, 3, 2))),
    }
    out = run(spec, inputs, streams)
    np.testing.assert_array_equal(out.total, [8, 4])
    np.testing.assert_array_equal(out.weight, [2, 1])


def test_padded_frames_of_a_grid_do_not_count():
    grid = Signature((("time", 2), ("height", 1), ("width", 2), ("channel", 1)), padded=True)
    mask = jnp.asarray([[True, False]])
    values = jnp.asarray([[[[[1.0], [3.0]]], [[[jnp.nan], [7.0]]]]])
    streams = {
        "prediction": Stream(values, mask=mask),
        "target": Stream(jnp.zeros_like(values), mask=mask),
    }
    out = run(CASES[0][0], {"prediction": grid, "target": grid}, streams)
    np.testing.assert_array_equal(out.total, [5])
    np.testing.assert_array_equal(out.weight, [1])


def test_gradient_of_absolute_error_at_zero():
    spec, inputs = CASES[1][0], dict(zip(NAMES, SHAPES[0], strict=True))
    streams = {"target": Stream(jnp.zeros((1, 3)))}
    grad = jax.grad(lambda v: scalar(run(spec, inputs, {"prediction": Stream(v), **streams})))
    np.testing.assert_array_equal(grad(jnp.zeros((1, 3))), np.zeros((1, 3)))


def test_misfits():
    spec = CASES[0][0]
    with pytest.raises(WiringError, match="shapes"):
        spec.check({"prediction": vector(2), "target": vector(3)})
    with pytest.raises(WiringError, match="no real numbers"):
        spec.check({"prediction": vector(2), "target": Signature((), dtype="int", classes=2)})

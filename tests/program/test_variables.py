"""Variables that are no parameters: functional, masked, global over the mesh, checkpointed."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Stream
from tests.support import queue as _queue  # registers `test_queue`
from tests.support.training import arrays, assert_close, trained

assert _queue


def resolved(rate):
    """Batch norm, a queue, experts with a balance loss; dropout and drop-path at `rate`."""
    stack = {"type": "transformer", "depth": 1, "width": 8, "heads": 2, "mlp_ratio": 1}
    return fusekit.resolve(
        fusekit.experiment(
            modalities={
                "image": {"type": "image", "shape": [4, 4, 1], "optional": True},
                "text": {"type": "features", "length": 2, "width": 8, "optional": True},
                "label": {"type": "label", "classes": 3},
            },
            encoders={
                "image": {"type": "resnet", "width": 4, "stages": [1], "norm": "batch"},
                "text": {**stack, "dropout": rate, "drop_path": rate},
            },
            fusion={
                "meet": {"type": "experts", "into": "text@..", "experts": 4, "hidden": 4},
            },
            heads={
                "y": {"type": "classifier", "input": "image.mean", "classes": 3},
                "z": {"type": "classifier", "input": "text.mean", "classes": 3},
            },
            losses={
                "y": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"},
                "z": {"type": "cross_entropy", "prediction": "z", "target": "batch.label"},
                "balance": {"type": "auxiliary", "input": "meet.balance"},
                "queue": {"type": "test_queue", "input": "y"},
            },
            train={
                "optimizer": {"type": "sgd", "momentum": 0.9},
                "learning_rate": 0.1,
                "steps": 10,
            },
        )
    )


def batch(seed, size=8, garbage=np.nan):
    """Whole rows are absent: none has one modality alone."""
    r = np.random.default_rng(seed)
    presence = np.ones(size, bool)
    presence[[1, 4, 6]] = False
    image = r.normal(size=(size, 4, 4, 1)).astype("float32")
    text = r.normal(size=(size, 2, 8)).astype("float32")
    image[~presence], text[~presence] = garbage, garbage
    return {
        "image": Stream(image, None, presence),
        "text": Stream(text, np.ones((size, 2), bool), presence),
        "label": Stream(r.integers(0, 3, size).astype("int32")),
    }


def dropped(given):
    """The batch without its absent rows."""
    kept = np.asarray(given["image"].presence)
    return jax.tree.map(lambda leaf: leaf[kept], given)


def variables(flat):
    return {name: value for name, value in flat.items() if name.startswith("variables.")}


BATCHES = [batch(0), batch(1)]


@pytest.fixture(scope="module")
def still():
    return Program(resolved(0.0))


@pytest.fixture(scope="module")
def noisy():
    """Trained on one device, with dropout and drop-path."""
    return trained(Program(resolved(0.1)), BATCHES)


def test_rows_that_are_absent_have_no_weight(still):
    whole, losses = trained(still, BATCHES)
    without, others = trained(still, [dropped(given) for given in BATCHES])
    assert_close(whole, without, atol=1e-5)
    for one, other in zip(losses, others, strict=True):
        assert_close(one, other, atol=1e-5)
    found = variables(whole)
    assert len(found) > 4
    for name, value in found.items():
        assert np.isfinite(value).all(), name
    assert found["variables.losses.queue.written"] == 10


def test_batch_statistics_are_those_of_the_rows_that_are_present(still):
    """The stem's running mean after one step: a tenth of the mean of its convolution, by hand."""
    state = still.init(0)
    flat = arrays(still.flat(state))
    kernels = [n for n in flat if n.startswith("params.image.") and n.endswith("kernel")]
    (kernel,) = [flat[n] for n in kernels if "layers" not in n]
    given = dropped(BATCHES[0])["image"].values.astype("float64")
    padded = np.pad(given, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    convolved = np.einsum("bhwcij,ijco->bhwo", patches, kernel.reshape(3, 3, 1, 4))
    after, _ = trained(still, BATCHES[:1], state)
    means = {n: v for n, v in variables(after).items() if n.endswith("mean") and "stem" in n}
    (mean,) = means.values()
    np.testing.assert_allclose(mean, 0.1 * convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_the_queue_holds_the_rows_that_were_present_in_order(still):
    state = still.init(0)
    found = []
    for given in BATCHES:
        context = still.context("train", jax.random.key(0))
        prepared = still.batch(given)
        values, _ = still.model.apply(state.params, state.variables, prepared, context=context)
        (read,) = still.graph.outputs_of("y")
        found.append(np.asarray(values[read.key].values)[given["image"].presence])
        state, _ = still.step(state, given)
    expected = np.zeros((6, 3))
    for position, row in enumerate(np.concatenate(found)):
        expected[position % 6] = row
    rows = still.flat(state)["variables.losses.queue.rows"]
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_evaluation_leaves_variables_alone(still):
    state = still.init(0)
    before = variables(arrays(still.flat(state)))
    still.evaluate(state, BATCHES[0])
    assert_close(variables(arrays(still.flat(state))), before, atol=0)


@pytest.mark.slow
def test_variables_are_global_over_a_mesh(noisy):
    program = Program(resolved(0.1), layout=Layout.of({"data": 2, "fsdp": 2, "tensor": 2}))
    state, metrics = trained(program, BATCHES)
    assert_close(state, noisy[0], atol=5e-5)
    for one, other in zip(metrics, noisy[1], strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_each_replica_has_its_own(noisy):
    program = Program(resolved(0.1), replicas=2, mode="vmap")
    state = program.init(0)
    for given in BATCHES:
        state, _ = program.step(state, given)
    first, second = (arrays(program.flat(program.replica(state, i))) for i in (0, 1))
    assert_close(first, noisy[0], atol=5e-5)
    name = "variables.losses.queue.rows"
    assert not np.allclose(first[name], second[name])


def test_a_checkpoint_holds_them(still):
    state, _ = still.step(still.init(0), BATCHES[0])
    flat = arrays(still.flat(state))
    on, _ = trained(still, BATCHES[1:], state)
    again = still.restored(flat)
    assert_close(arrays(still.flat(again)), flat, atol=0)
    resumed, _ = trained(still, BATCHES[1:], again)
    assert_close(resumed, on, atol=0)

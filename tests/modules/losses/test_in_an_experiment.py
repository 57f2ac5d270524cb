"""Teachers, queues, mined negatives and wrapped losses as one experiment: any mesh, replicas."""

import numpy as np
import pytest

import fusekit
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Stream
from fusekit.train.evaluate import evaluate
from tests.support.compilations import compilations
from tests.support.training import arrays, assert_close, distance, gradients, trained

PAIR = ["image_z", "text_z"]
CUBE = {"data": 2, "fsdp": 2, "tensor": 2}


def experiment():
    contrast = {"type": "info_nce", "inputs": PAIR, "queue": 5, "direction": "first"}
    words = {"type": "cross_entropy", "prediction": "words", "target": "batch.text"}
    return fusekit.experiment(
        modalities={
            "image": {"type": "image", "shape": [4, 4, 1], "optional": True},
            "text": {"type": "tokens", "vocab": 6, "length": 3, "optional": True},
            "key": {"type": "label", "classes": 9},
        },
        encoders={
            "image": {"type": "patches", "patch": [2, 2], "width": 8},
            "text": {"type": "embed", "width": 8},
        },
        fusion={
            "mined": {
                "type": "hard_negatives",
                "inputs": PAIR,
                "pick": "text",
                "positives": "batch.key",
            },
        },
        heads={
            "image_z": {"type": "projection", "input": "image.first", "width": 4},
            "text_z": {"type": "projection", "input": "text.first", "width": 4},
            "image_t": {"type": "projection", "input": "image.mean", "width": 4},
            "text_t": {"type": "projection", "input": "text.mean", "width": 4},
            "wrong_z": {"type": "projection", "input": "mined.mean", "width": 4},
            "words": {"type": "lm", "input": "text", "vocab": 6},
            "pixels": {"type": "dense", "input": "image", "channels": 1, "size": [4, 4]},
        },
        losses={
            "align": {
                "type": "info_nce",
                "inputs": PAIR,
                "soft": ["image_t", "text_t"],
                "queue": 5,
                "positives": "batch.key",
            },
            "far": {"type": "triplet", "inputs": [*PAIR, "wrong_z"], "margin": 1},
            "nested": {"type": "matryoshka", "loss": contrast, "widths": [2, 4]},
            "words": {"type": "uncertainty", "loss": words, "likelihood": "softmax"},
            "pixels": {"type": "squared_error", "prediction": "pixels", "target": "batch.image"},
        },
        metrics={
            "recall": {"type": "recall", "inputs": ["text_z", "image_z"], "at": [1, 3]},
            "rank": {"type": "median_rank", "inputs": PAIR, "within": "batch.key"},
            "named": {"type": "zero_shot_accuracy", "inputs": PAIR, "target": "batch.key"},
        },
        train={
            "optimizer": {"type": "sgd", "momentum": 0.9},
            "learning_rate": 0.05,
            "steps": 10,
        },
    )


def batch(seed, garbage=np.nan, size=8):
    r = np.random.default_rng(seed)
    here, there = r.random(size) < 0.8, r.random(size) < 0.8
    image = r.normal(size=(size, 4, 4, 1)).astype("float32")
    text = r.integers(0, 6, (size, 3)).astype("int32")
    mask = np.arange(3) < r.integers(1, 4, (size, 1))
    image[~here] = garbage
    text[~(mask & there[:, None])] = 1 if garbage else 0
    return {
        "image": Stream(image, None, here),
        "text": Stream(text, mask, there),
        "key": Stream(r.integers(0, 5, size).astype("int32")),
    }


BATCHES = [batch(0), batch(1)]
HELD = "variables.losses.align.queue.keys"


@pytest.fixture(scope="module")
def graph():
    return fusekit.resolve(experiment())


@pytest.fixture(scope="module")
def program(graph):
    return Program(graph)


@pytest.fixture(scope="module")
def alone(program):
    """After one step and after two, and the losses of each."""
    return trained(program, BATCHES[:1]), trained(program, BATCHES)


@pytest.mark.slow
def test_a_mesh_gives_the_losses_gradients_and_queues_of_one_device(graph, alone):
    spread = Program(graph, layout=Layout.of(CUBE))
    start = spread.init(0)
    after, losses = trained(spread, BATCHES[:1], start)
    assert distance(gradients(after), gradients(alone[0][0])) < 1e-4
    state, more = trained(spread, BATCHES)
    for one, other in zip([*losses, *more], [*alone[0][1], *alone[1][1]], strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)
    for name in (n for n in state if n.startswith("variables.")):
        np.testing.assert_allclose(state[name], alone[1][0][name], atol=5e-5, err_msg=name)


@pytest.mark.slow
def test_each_replica_has_its_own_queue(graph, alone):
    many = Program(graph, replicas=2, mode="vmap")
    state = many.init(0)
    for given in BATCHES:
        state, _ = many.step(state, given)
    first, second = (arrays(many.flat(many.replica(state, i))) for i in (0, 1))
    assert_close(first, alone[1][0], atol=5e-5)
    assert not np.allclose(first[HELD], second[HELD])


def test_contents_of_what_is_absent_change_nothing(program, alone):
    with compilations() as seen:
        clean, losses = trained(program, [batch(0, 0.0), batch(1, 0.0)])
    assert len(seen) <= 1
    for name, value in clean.items():
        np.testing.assert_array_equal(alone[1][0][name], value, err_msg=name)
    for one, other in zip(losses, alone[1][1], strict=True):
        assert_close(one, other, atol=0)


def test_the_queue_and_its_keys_are_those_of_rows_that_had_both(alone):
    rows = [np.asarray(b["image"].presence) & np.asarray(b["text"].presence) for b in BATCHES]
    keys = np.concatenate(
        [np.asarray(b["key"].values)[r] for b, r in zip(BATCHES, rows, strict=True)]
    )
    held = np.zeros(5)
    for position, key in enumerate(keys):
        held[position % 5] = key
    found = alone[1][0]
    np.testing.assert_array_equal(found["variables.losses.align.queue.labels"], held)
    assert found["variables.losses.align.queue.next"] == len(keys) % 5
    np.testing.assert_allclose(np.linalg.norm(found[HELD], axis=-1), 1, rtol=1e-5)


def test_metrics_are_of_the_split(program):
    found = evaluate(program, program.init(0), BATCHES)
    assert 0 <= found["recall"] <= 1
    assert found["rank"] >= 1
    assert 0 <= found["named"] <= 1
    assert all(np.isfinite(value) for value in found.values())

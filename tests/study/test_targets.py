"""Shuffled targets and the constant predictor."""

import numpy as np
import pytest

import fusekit
from fusekit.data.batch import Batch
from fusekit.study.constant import answer_for
from fusekit.study.feed import Feed
from fusekit.study.targets import Targets, open_split, targets_of
from tests.study import tiny


def labels(batches):
    """By row number."""
    return {
        int(i): int(v)
        for batch in batches
        for i, v in zip(batch.index, batch.streams["label"].values, strict=True)
        if i >= 0
    }


def test_targets_are_what_only_losses_read():
    assert targets_of(fusekit.resolve(tiny.experiment())) == ("label",)
    words = tiny.experiment(
        losses={"fit": {"type": "squared_error", "prediction": "out", "target": "batch.left"}},
        metrics={},
        modalities={
            "left": {"type": "features", "width": 3},
            "right": {"type": "features", "width": 2},
        },
        data={"made": {"type": "synthetic", "learn": None}},
    )
    assert targets_of(fusekit.resolve(words)) == ()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_shuffled_targets_are_a_permutation_of_their_own(split):
    declared = tiny.experiment()
    targets = Targets(declared, split, ("label",))
    shuffled = targets.shuffled(5)
    pipeline = open_split(declared, split, training=False)
    plain = labels(pipeline)
    swapped = labels(Feed(pipeline, targets=shuffled))
    pipeline.close()
    assert plain.keys() == swapped.keys()
    assert sorted(plain.values()) == sorted(swapped.values())
    assert plain != swapped
    same = labels(Batch(b.streams, b.index) for b in [shuffled.into(first(declared, split))])
    assert all(swapped[i] == v for i, v in same.items())


def first(declared, split):
    pipeline = open_split(declared, split, training=False)
    batch = next(iter(pipeline))
    pipeline.close()
    return batch


def test_a_row_keeps_its_shuffled_target_in_every_epoch():
    declared = tiny.experiment()
    shuffled = Targets(declared, "train", ("label",)).shuffled(1)
    feed = Feed(open_split(declared, "train", training=True), targets=shuffled)
    epochs = [labels(next(feed) for _ in range(len(feed))) for _ in range(2)]
    feed.close()
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 32


def test_inputs_stay_and_unshuffled_targets_change_nothing():
    declared = tiny.experiment()
    batch = first(declared, "validation")
    whole = Targets(declared, "validation", ("label",))
    again, other = whole.into(batch), whole.shuffled(2).into(batch)
    np.testing.assert_array_equal(again.streams["label"].values, batch.streams["label"].values)
    np.testing.assert_array_equal(other.streams["left"].values, batch.streams["left"].values)
    assert other.streams["label"].values.dtype == batch.streams["label"].values.dtype


def test_absence_travels_with_the_target():
    declared = tiny.experiment(
        modalities={
            "left": {"type": "features", "width": 3},
            "right": {"type": "features", "width": 2},
            "label": {"type": "label", "classes": 3, "optional": True},
        },
        data={
            "made": {
                "type": "synthetic",
                "sizes": {"train": 32, "validation": 12, "test": 18},
                "missing": {"label": {"rate": 0.5, "splits": ["train"]}},
            }
        },
    )
    targets = Targets(declared, "train", ("label",))
    shuffled = targets.shuffled(0)
    before, after = (t.arrays["label", "presence"] for t in (targets, shuffled))
    assert before.sum() == after.sum() == len(targets.column("label"))
    assert 0 < before.sum() < 32
    assert not np.array_equal(before, after)


def test_constants_by_hand():
    classes = np.array([0, 0, 0, 2])
    np.testing.assert_allclose(
        np.exp(answer_for(classes, "softmax", 3)), [0.75, 0.125, 0.25], atol=1e-12
    )
    two = answer_for(np.array([0, 1, 1, 1]), "softmax", 1)
    np.testing.assert_allclose(two, [np.log(3)])
    several = np.array([[1, 0], [1, 0], [0, 0], [1, 1.0]])
    want = [np.log(3), np.log(1 / 3)]
    np.testing.assert_allclose(answer_for(several, "sigmoid", 2), want)
    np.testing.assert_allclose(answer_for(np.array([1.0, 2.0, 6.0]), "none", 1), [3.0])

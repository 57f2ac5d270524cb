"""Single modalities: what stays, what goes, and that the other modality is not read."""

import numpy as np
import pytest

import fusekit
from fusekit.errors import FusekitError
from fusekit.study import single
from fusekit.study.reach import Reach, modalities_read
from fusekit.study.targets import open_split
from tests.study import tiny


def sequences(**changes):
    return tiny.experiment(
        modalities={
            "left": {"type": "features", "width": 3, "length": 4},
            "right": {"type": "features", "width": 2, "length": 3},
            "label": {"type": "label", "classes": 3},
        },
        encoders={
            "left": {"type": "transformer", "width": 4, "depth": 2, "heads": 2},
            "right": {"type": "transformer", "width": 4, "depth": 2, "heads": 2},
        },
        **changes,
    )


def test_the_head_reads_what_is_left():
    alone = single(tiny.experiment(), "left")
    assert str(alone.heads["out"].input) == "left"
    assert (list(alone.encoders), list(alone.fusion)) == (["left"], [])
    assert alone.modalities.keys() == {"left", "right", "label"}
    assert (alone.data, alone.train) == (tiny.experiment().data, tiny.experiment().train)
    fusekit.resolve(alone)


def test_nothing_of_the_other_modality_is_read():
    alone = single(tiny.experiment(), "right")
    program = fusekit.compile(alone, steps=1)
    pipeline = open_split(alone, "test", training=False)
    batch = next(iter(pipeline)).streams
    pipeline.close()
    state = program.init()
    want = program.predict(state, batch)["out"].values
    gone = {**batch, "left": batch["left"].with_(values=np.full_like(batch["left"].values, 7.0))}
    np.testing.assert_array_equal(program.predict(state, gone)["out"].values, want)
    gone["right"] = batch["right"].with_(values=batch["right"].values + 1)
    assert not np.array_equal(program.predict(state, gone)["out"].values, want)


def test_operators_between_modalities_go():
    fusion = {
        "exchange": {"type": "bottleneck", "into": ["left@1..", "right@1.."], "tokens": 2},
        "joint": {"type": "concat", "inputs": ["left.mean", "right.mean"]},
    }
    fused = sequences(fusion=fusion)
    assert Reach(fused).of("exchange") == {"left", "right"}
    alone = single(fused, "left")
    assert not alone.fusion
    assert str(alone.heads["out"].input) == "left.mean"
    fusekit.resolve(alone)


def test_operators_within_a_modality_stay():
    fusion = {
        "adapter": {"type": "bottleneck", "into": ["left@1..", "again@1.."], "tokens": 2},
        "joint": {"type": "concat", "inputs": ["left.mean", "again.mean", "right.mean"]},
    }
    declared = sequences()
    encoders = {
        **declared.encoders,
        "again": {
            "type": "transformer",
            "width": 4,
            "depth": 2,
            "heads": 2,
            "input": "batch.left",
        },
    }
    modalities = declared.modalities
    fused = tiny.experiment(modalities=modalities, encoders=encoders, fusion=fusion)
    alone = single(fused, "left")
    assert list(alone.fusion) == ["adapter", "joint"]
    assert [str(r) for r in alone.fusion["joint"].inputs] == ["left.mean", "again.mean"]
    fusekit.resolve(alone)


def test_views_stay_where_they_are_read():
    declared = tiny.experiment(
        modalities={
            "left": {"type": "tokens", "vocab": 5, "length": 3},
            "hidden": {"type": "mask_tokens", "of": "batch.left", "rate": 0.2},
            "right": {"type": "features", "width": 2},
            "label": {"type": "label", "classes": 3},
        },
        encoders={
            "hidden": {"type": "transformer", "width": 4, "depth": 1, "heads": 2},
            "right": {"type": "mlp", "width": 4},
        },
        fusion={"joint": {"type": "concat", "inputs": ["hidden.mean", "right"]}},
    )
    assert modalities_read(declared) == ("left", "right")
    left, right = single(declared, "left"), single(declared, "right")
    assert left.modalities.keys() == declared.modalities.keys()
    assert right.modalities.keys() == {"left", "right", "label"}
    fusekit.resolve(left)
    fusekit.resolve(right)


def test_nothing_left_is_an_error():
    with pytest.raises(FusekitError, match="label alone"):
        single(tiny.experiment(), "label")

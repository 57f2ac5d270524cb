"""Groups of test rows, and what resampling them changes."""

import numpy as np
import pytest

import fusekit
from fusekit.errors import DataError, FusekitError
from fusekit.study import compare
from fusekit.study.groups import Groups
from fusekit.study.table import remarks
from fusekit.study.targets import Targets
from tests.study import tiny

DIGITS = {
    "modalities": {
        "image": {"type": "image", "shape": [8, 8, 1]},
        "digit": {"type": "label", "classes": 10},
    },
    "encoders": {"image": {"type": "mlp", "width": 8}},
    "fusion": {},
    "heads": {"digit": {"type": "classifier", "input": "image", "classes": 10}},
    "losses": {"digit": {"type": "cross_entropy", "prediction": "digit", "target": "batch.digit"}},
    "metrics": {"accuracy": {"type": "accuracy", "prediction": "digit", "target": "batch.digit"}},
    "data": {"digits": {"type": "av_digits", "provides": {"digit": "label"}}},
    "train": {"batch": 8, "steps": 1},
}


def test_voices_of_the_demo():
    experiment = fusekit.experiment(**DIGITS)
    groups = Groups(experiment, "voice")
    rows = Targets(experiment, "test", ("digit",)).index
    assert groups.count == 25
    assert len(rows) == 567
    found = groups.of(rows)
    assert np.unique(found).tolist() == list(range(25))
    voices = experiment.data["digits"].open("test", {}).columns()["voice"]
    np.testing.assert_array_equal(voices, voices[np.unique(found, return_index=True)[1]][found])


def test_what_names_no_groups():
    experiment = fusekit.experiment(**DIGITS)
    with pytest.raises(DataError, match=r"source digits: there is no column 'voices'.*voice"):
        Groups(experiment, "voices")
    with pytest.raises(FusekitError, match="3 axes"):
        Groups(experiment, "image")


def test_a_comparison_by_group():
    """Of a label as the group: its rows come together, and the remarks say so."""
    one = {
        "seeds": 1,
        "control_seeds": 0,
        "rates": [0.01],
        "singles": False,
        "resamples": 60,
        "progress": False,
    }
    experiments = {"concat": tiny.experiment()}
    with pytest.raises(DataError, match="speaker"):
        compare(experiments, group="speaker", **one)
    by_row = compare(experiments, **one)
    by_group = compare(experiments, group="label", **one)
    assert (by_row.unit, by_row.units, by_group.unit, by_group.units) == ("row", 18, "label", 3)
    assert by_group["concat"].scores == by_row["concat"].scores
    mine, other = (each["concat"].vs_constant.samples for each in (by_group, by_row))
    assert mine.mean == other.mean
    assert (mine.low, mine.high) != (other.low, other.high)
    assert any("3 groups of test rows, those of equal label" in line for line in remarks(by_group))
    assert any("bootstrap draws over test rows" in line for line in remarks(by_row))

import sys

import numpy as np
import pytest

from fusekit.errors import DataError
from fusekit_modules.sources.hf import HfSpec


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        HfSpec(path=tmp_path).rows({})


def test_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = {
        "train": {"x": [[1.0, 2.0], None, [5.0, 6.0]], "label": [0, 1, 2]},
        "test": {"x": [[7.0, 8.0]], "label": [3]},
    }
    parts = {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    spec = HfSpec(path=tmp_path / "d")
    train = spec.open("train")
    assert [None if row["x"] is None else row["x"].tolist() for row in train] == splits["train"][
        "x"
    ]
    assert spec.open("test")[0]["label"] == 3
    np.testing.assert_array_equal(spec.rows({}).column("label"), [0, 1, 2, 3])


def test_no_data_set(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="is no data set"):
        HfSpec(path=tmp_path / "nothing").rows({})

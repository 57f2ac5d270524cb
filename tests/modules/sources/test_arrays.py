import numpy as np
import pytest

from fusekit.errors import DataError
from fusekit_modules.sources.arrays import ArraysSpec


def write(path, **extra):
    np.savez(
        path,
        x=np.arange(12.0).reshape(6, 2),
        has_x=np.array([1, 1, 0, 1, 1, 0], bool),
        part=np.array(["train"] * 4 + ["test"] * 2),
        key=np.array(list("abcdef")),
        class_names=np.array(["no", "yes"]),
        **extra,
    )
    return path


def test_columns(tmp_path):
    spec = ArraysSpec(
        path=write(tmp_path / "a.npz"), given="part", ids="key", present={"x": "has_x"}
    )
    rows = spec.open("test")
    assert rows.names == ("x",)
    assert [row["x"] is None for row in rows] == [False, True]
    assert rows[0]["x"].tolist() == [8, 9]
    assert rows.ids(np.array([1])) == ["f"]


def test_pickles_are_refused(tmp_path):
    path = write(tmp_path / "a.npz", bad=np.array([{}] * 6, object))
    with pytest.raises(DataError, match="not a NumPy archive of plain arrays"):
        ArraysSpec(path=path).rows({})


def test_errors(tmp_path):
    path = write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"no array 'parts' of 6 rows; did you mean part\?"):
        ArraysSpec(path=path, given="parts").open("train")
    with pytest.raises(DataError, match=r"there is no file .*b\.npz"):
        ArraysSpec(path=tmp_path / "b.npz").open("train")
    with pytest.raises(DataError, match="the data come without splits"):
        ArraysSpec(path=path).open("train")

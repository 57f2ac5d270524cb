import io
import tarfile

import numpy as np
import pytest

from fusekit.errors import DataError
from fusekit_modules.sources.webdataset import WebdatasetSpec


def write(path, start, count):
    with tarfile.open(path, "w") as tar:
        for i in range(start, start + count):
            array = io.BytesIO()
            np.save(array, np.full((2,), i, np.float32))
            files = {"x.npy": array.getvalue(), "cls": str(i % 3).encode(), "txt": b"row %d" % i}
            if i == 1:
                del files["txt"]
            for extension, data in files.items():
                info = tarfile.TarInfo(f"part/{i:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_rows(tmp_path):
    write(tmp_path / "train-0.tar", 0, 3)
    write(tmp_path / "train-1.tar", 3, 2)
    write(tmp_path / "test.tar", 5, 2)
    spec = WebdatasetSpec(
        shards={"train": str(tmp_path / "train-*.tar"), "test": str(tmp_path / "test.tar")}
    )
    train, test = spec.open("train"), spec.open("test")
    assert [row["x.npy"].tolist() for row in train] == [[i, i] for i in range(5)]
    assert [row.get("txt") for row in train] == ["row 0", None, "row 2", "row 3", "row 4"]
    assert [row["cls"] for row in test] == [2, 0]
    assert test.ids(np.array([1])) == ["part/0006"]
    assert train.names == ("x.npy", "cls", "txt")


def test_one_pool(tmp_path):
    write(tmp_path / "a.tar", 0, 6)
    spec = WebdatasetSpec(
        shards={"all": str(tmp_path / "a.tar")}, split={"type": "kfold", "folds": 3}
    )
    assert (len(spec.open("train")), len(spec.open("test"))) == (4, 2)


def test_errors(tmp_path):
    with pytest.raises(DataError, match=r"shards\.train: no file matches"):
        WebdatasetSpec(shards={"train": str(tmp_path / "*.tar")}).rows({})
    (tmp_path / "bad.tar").write_bytes(b"x" * 600)
    with pytest.raises(DataError, match="no uncompressed tar"):
        WebdatasetSpec(shards={"train": str(tmp_path / "bad.tar")}).rows({})

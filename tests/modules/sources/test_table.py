import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fusekit.data.pipeline import Pipeline
from fusekit.errors import DataError
from fusekit_modules.modalities.features import FeaturesSpec
from fusekit_modules.modalities.image import ImageSpec
from fusekit_modules.modalities.label import LabelSpec
from fusekit_modules.modalities.tabular import TabularSpec
from fusekit_modules.sources.arrays import ArraysSpec
from fusekit_modules.sources.table import TableSpec

NAMES = ("id", "picture", "curve", "age", "sex", "cls", "part")


@pytest.fixture
def index(tmp_path):
    """Six rows with files; row 1 has no picture, row 2 no age."""
    (tmp_path / "files").mkdir()
    rows = []
    for i in range(6):
        Image.fromarray(np.full((2, 3, 3), 40 * i, np.uint8)).save(tmp_path / f"files/{i}.png")
        np.save(tmp_path / f"files/{i}.npy", np.arange(2) + i)
        rows.append(
            {
                "id": f"r{i}",
                "picture": None if i == 1 else f"files/{i}.png",
                "curve": f"files/{i}.npy",
                "age": None if i == 2 else 10.5 * i,
                "sex": "fm"[i % 2],
                "cls": i % 3,
                "part": "train" if i < 4 else "test",
            }
        )
    return tmp_path, rows


def write(folder, rows, kind):
    path = folder / f"index.{kind}"
    if kind == "csv":
        cells = [[("" if row[n] is None else str(row[n])) for n in NAMES] for row in rows]
        path.write_text("\n".join(",".join(line) for line in [NAMES, *cells]) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_batches(index, kind):
    folder, rows = index
    source = TableSpec(
        path=write(folder, rows, kind),
        files=("picture", "curve"),
        ids="id",
        given="part",
        records={"who": ("age", "sex")},
        vectors={"pair": ("age", "cls")},
    )
    modalities = {
        "picture": ImageSpec(shape=(2, 3, 3), optional=True),
        "curve": FeaturesSpec(width=2),
        "who": TabularSpec(numeric=("age",), categorical={"sex": ("f", "m")}),
        "cls": LabelSpec(classes=3),
    }
    pipeline = Pipeline(
        {"t": source}, modalities, batch=4, seed=0, split="train", training=False, threads=0
    )
    (batch,) = pipeline
    assert batch.ids == ["r0", "r1", "r2", "r3"]
    picture = batch.streams["picture"]
    assert picture.presence.tolist() == [True, False, True, True]
    expected = np.array([0, 0, 80, 120], np.float32) / 255
    np.testing.assert_allclose(
        picture.values, np.broadcast_to(expected[:, None, None, None], (4, 2, 3, 3))
    )
    np.testing.assert_array_equal(batch.streams["curve"].values, [[0, 1], [1, 2], [2, 3], [3, 4]])
    np.testing.assert_array_equal(batch.streams["cls"].values, [0, 1, 2, 0])
    who = batch.streams["who"]
    np.testing.assert_array_equal(who.values, [[0, 0], [10.5, 1], [0, 0], [31.5, 1]])
    np.testing.assert_array_equal(who.mask, [[1, 1], [1, 1], [0, 1], [1, 1]])
    np.testing.assert_array_equal(source.rows({})[2]["pair"], [np.nan, 2])
    assert source.open("test").index.tolist() == [4, 5]


def test_errors(index):
    folder, rows = index
    path = write(folder, rows, "csv")
    with pytest.raises(DataError, match=r"no column 'pictures'; did you mean picture, curve\?"):
        TableSpec(path=path, files=("pictures",)).rows({})
    with pytest.raises(DataError, match=r"v takes numbers, and sex holds .f."):
        TableSpec(path=path, vectors={"v": ("sex",)}).rows({})[0]
    with pytest.raises(DataError, match="there is no file"):
        TableSpec(path=folder / "other.csv").rows({})
    with pytest.raises(DataError, match=r"an index is \.csv"):
        TableSpec(path=folder / "files").rows({})
    (folder / "files/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="these 8 bytes are no png"):
        TableSpec(path=path, files=("picture",)).rows({})[0]
    (folder / "files/0.png").unlink()
    with pytest.raises(DataError, match=r"names .*0\.png: No such file"):
        TableSpec(path=path, files=("picture",)).rows({})[0]


def test_npy_pickles_are_refused(index):
    folder, rows = index
    np.save(folder / "files/0.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="are no npy"):
        TableSpec(path=write(folder, rows, "csv"), files=("curve",)).rows({})[0]


def test_vectors_of_empty_cells_are_absent_and_text_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n,3\n,\n")
    rows = TableSpec(path=path, vectors={"v": ("a", "b")}).rows({})
    np.testing.assert_array_equal(rows[1]["v"], np.array([np.nan, 3], np.float32))
    assert rows[2]["v"] is None
    path.write_text("a,b\n1,2\n1,two\n")
    with pytest.raises(DataError, match=r"t\.csv: vectors\.v takes .* b holds 'two' in row 1"):
        TableSpec(path=path, vectors={"v": ("a", "b")}).rows({})


def test_a_broken_file_is_named_with_its_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("curve,part\nc.npy,train\n")
    (tmp_path / "c.npy").write_bytes(b"no array")
    source = TableSpec(path=path, files=("curve",), given="part")
    pipeline = Pipeline({"t": source}, {"curve": FeaturesSpec(width=2)}, batch=1, seed=0,
                        split="train", training=False, threads=0)  # fmt: skip
    with pytest.raises(DataError, match="these 8 bytes are no npy") as caught:
        next(iter(pipeline))
    assert caught.value.__notes__[:2] == [f"in {tmp_path / 'c.npy'}", "in row 0 of source t"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,a,a\nx,1,2\n", "several columns called a"),
        ("id,a\nx,1\n,2\n", "id is empty in row 1"),
        ("id,a\nx,1\ny,1\nx,2\n", "id is x in rows 0 and 2"),
    ],
)
def test_what_an_index_may_not_hold(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        TableSpec(path=path, ids="id").rows({})


def test_a_relative_path_that_leads_nowhere_says_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"there is no file t.csv in {tmp_path}, where relative"):
        TableSpec(path="t.csv").rows({})
    with pytest.raises(DataError, match=f"there is no file a.npz in {tmp_path}, where relative"):
        ArraysSpec(path="a.npz").rows({})

"""Requests: what they mean, and everything that is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusekit.export.manifest import Input, Manifest, Output, Port, Stored
from fusekit.export.serve.faults import RequestError
from fusekit.export.serve.rows import Rows

FILE = Stored("x", 1, "")


def entry(name: str, kind: str, shape: tuple[int, ...], dtype: str, **more: Any) -> Input:
    flags = {"mask": shape[:1], "presence": ()}
    ports = {
        key: Port(f"{name}.{key}", ("batch", *size), "bool")
        for key, size in flags.items()
        if more.pop(key, False)
    }
    return Input(name, kind, Port(name, ("batch", *shape), dtype), **ports, **more)


MANIFEST = Manifest(
    name="made",
    inputs=(
        entry("image", "grid", (2, 3, 1), "float32"),
        entry("text", "sequence", (4,), "int32", mask=True, presence=True, classes=11),
        entry(
            "record", "table", (2,), "float32", mask=True, presence=True,
            names=("age", "ward"), cardinalities=(0, 3),
        ),
        entry("mood", "scalar", (), "float32", presence=True),
        entry(
            "size", "vector", (2,), "float32", presence=True,
            standardised={"mean": [1.0, 2.0], "deviation": [0.5, 4.0]},
        ),
    ),
    outputs=(Output("kind", Port("kind", ("batch", 2), "float32")),),
    programs={"cpu": FILE},
    parameters=FILE,
)  # fmt: skip
IMAGE = [[[1], [2], [3]], [[4.5], [5], [6]]]
READER = Rows(MANIFEST, limit=3)


def read(*rows: Any) -> dict[str, np.ndarray]:
    arrays, count = READER.read(json.dumps({"rows": list(rows)}).encode())
    assert count == len(rows)
    return arrays


def refused(body: Any) -> RequestError:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestError) as caught:
        READER.read(text)
    json.dumps(caught.value.body())
    return caught.value


def problem(**values: Any) -> Any:
    """The only problem of one row."""
    error = refused({"rows": [{"image": IMAGE, **values}]})
    assert (error.status, error.code, len(error.problems)) == (422, "invalid", 1)
    return error.problems[0]


def test_the_manifest_survives_its_file(tmp_path: Path):
    (tmp_path / "export.json").write_text(MANIFEST.text(), encoding="utf-8")
    assert Manifest.read(tmp_path) == MANIFEST


def test_rows_become_arrays():
    found = read({"image": IMAGE, "text": [3, 0], "mood": 2, "size": [2, 10]}, {"image": IMAGE})
    np.testing.assert_array_equal(found["image"][1].ravel(), [1, 2, 3, 4.5, 5, 6])
    np.testing.assert_array_equal(found["text"], [[3, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found["text.mask"], [[1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found["text.presence"], [True, False])
    np.testing.assert_array_equal(found["mood"], [2, 0])
    np.testing.assert_array_equal(found["size"][0], [2, 2])  # (2 - 1) / 0.5, (10 - 2) / 4
    assert {name: array.dtype.name for name, array in found.items()} == {
        port.name: port.dtype for one in MANIFEST.inputs for port in one.ports
    }


def test_null_is_absent_and_an_empty_sequence_is_there():
    found = read({"image": IMAGE, "text": None}, {"image": IMAGE, "text": []})
    np.testing.assert_array_equal(found["text.presence"], [False, True])
    assert not found["text.mask"].any()


def test_tables_by_name_or_in_order():
    found = read(
        {"image": IMAGE, "record": [1.5, 2]},
        {"image": IMAGE, "record": {"ward": 1}},
        {"image": IMAGE, "record": [None, None]},
    )
    np.testing.assert_array_equal(found["record"], [[1.5, 2], [0, 1], [0, 0]])
    np.testing.assert_array_equal(found["record.mask"], [[1, 1], [0, 1], [0, 0]])
    assert found["record.presence"].all()


@pytest.mark.parametrize(
    ("values", "path", "message", "found"),
    [
        ({"text": [1, 11]}, "rows.0.text", "is no code of this input", "11"),
        ({"text": [-1]}, "rows.0.text", "is no code of this input", "-1"),
        ({"text": [1, 2.0]}, "rows.0.text.1", "is no such value", "a number with a fraction"),
        ({"text": [1, True]}, "rows.0.text.1", "is no such value", "true or false"),
        ({"text": [1, 2, 3, 4, 5]}, "rows.0.text", "has another length", "5"),
        ({"text": "abc"}, "rows.0.text", "is no list", "text"),
        ({"text": [10**30]}, "rows.0.text", "holds a number that is too large", ""),
        ({"text": [2**40]}, "rows.0.text", "holds a number that is too large", ""),
        ({"mood": [1]}, "rows.0.mood", "is no such value", "a list"),
        ({"mood": 1e39}, "rows.0.mood", "holds a number that is too large", ""),
        ({"mood": 10**400}, "rows.0.mood", "holds a number that is too large", ""),
        ({"size": [1, "2"]}, "rows.0.size.1", "is no such value", "text"),
        ({"size": [1, None]}, "rows.0.size.1", "is no such value", "null"),
        ({"record": [1]}, "rows.0.record", "has another number of fields", "1"),
        ({"record": 3}, "rows.0.record", "is no table", "int"),
        ({"record": [1, 3]}, "rows.0.record.ward", "is no code of this field", "3"),
        ({"record": [1, 0.5]}, "rows.0.record.ward", "is no code of this field", "0.5"),
        ({"record": ["x", 0]}, "rows.0.record.age", "is no such value", "text"),
        ({"record": [10**400, 0]}, "rows.0.record.age", "is too large", ""),
    ],
)
def test_a_value_that_does_not_fit(values: Any, path: str, message: str, found: str):
    given = problem(**values)
    assert ".".join(map(str, given.path)) == path
    assert (given.message, given.found) == (message, found)


def test_a_shape_that_does_not_fit_is_told_where():
    given = refused({"rows": [{"image": [[[1], [2], [3]], [[4], [5]]]}]}).problems[0]
    assert (given.path, given.found, given.expected) == (("rows", 0, "image", 1), "2", "3")
    given = refused({"rows": [{"image": [[[1], [2], [3]], [[4], [[5]], [6]]]}]}).problems[0]
    assert given.path == ("rows", 0, "image", 1, 1, 0)
    assert given.found == "a list"


def test_unknown_names_have_their_nearest():
    given = problem(txet=[1])
    assert given.nearest == ("text",)
    assert given.expected == "image, text, record, mood, size"
    assert problem(record={"wrad": 1}).nearest == ("ward",)
    error = refused({"row": []})
    assert error.problems[0].nearest == ("rows",)


def test_every_problem_of_every_row_is_told():
    error = refused({"rows": [{"text": [99], "mood": "x"}, 3, {"image": IMAGE, "no": 1}]})
    paths = [".".join(map(str, p.path)) for p in error.problems]
    assert paths == ["rows.0.image", "rows.0.text", "rows.0.mood", "rows.1", "rows.2.no"]


def test_many_problems_are_counted():
    error = refused({"rows": [{"image": IMAGE, **{f"x{k}": 1 for k in range(500)}}]})
    body = error.body()["error"]
    assert (len(body["problems"]), body["count"]) == (20, 500)


def test_long_words_are_cut():
    long = "x" * 100_000
    assert len(json.dumps(refused({"rows": [{"image": IMAGE, long: 1}]}).body())) < 2000
    assert len(json.dumps(refused({long: 1}).body())) < 2000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe\xff", 400),
        ('{"rows": [{"mood": 1}]}'.encode("utf-16-le"), 400),
        (b"[" * 100_000, 400),
        (b'{"rows": [{"mood": NaN}]}', 400),
        (b'{"rows": [{"mood": -Infinity}]}', 400),
        (b'{"rows": [{"mood": ' + b"9" * 5000 + b"}]}", 400),
        (b'{"rows": [], "rows": []}', 400),
        (b'{"rows": []} {}', 400),
        (b"[]", 422),
        (b"3", 422),
        (b"{}", 422),
        (b'{"rows": []}', 422),
        (b'{"rows": {"image": 1}}', 422),
        (b'{"rows": [1, 2, 3, 4]}', 413),
        (b'{"rows": [{"\\ud800": 1}]}', 422),
        (b'{"rows": [{"mood": 1e999}]}', 422),
    ],
)
def test_what_is_no_request(body: bytes, status: int):
    assert refused(body).status == status

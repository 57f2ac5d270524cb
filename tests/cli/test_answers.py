"""Rows of answers, by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fusekit.cli.answers import answers, sigmoid, softmax
from fusekit.component import HeadSpec
from fusekit.data.batch import Batch
from fusekit.stream import Signature, Stream, vector


def graph(link: str, signature: Signature) -> Any:
    spec = type("Spec", (HeadSpec,), {"link": link, "__annotations__": {}}).model_construct()
    return SimpleNamespace(
        nodes={"h": SimpleNamespace(spec=spec)},
        outputs_of=lambda name: (SimpleNamespace(key=name),),
        signatures={"h": signature},
    )


def batch(count: int, valid: list[bool]) -> Batch:
    index = np.where(valid, np.arange(10, 10 + count), -1)
    return Batch({"valid": Stream(np.array(valid))}, index, ids=[f"n{k}" for k in range(count)])  # pyright: ignore


def stream(values: Any, **more: Any) -> Stream:
    return Stream(np.asarray(values, np.float32), **more)  # pyright: ignore


def test_absent_rows_are_null_and_filling_is_left_out() -> None:
    found = {"h": stream([[0, 1], [2, 3], [4, 5]], presence=np.array([True, False, True]))}
    lines = list(answers(graph("none", vector(2)), found, batch(3, [True, True, False])))
    assert lines == [
        {"row": 10, "id": "n0", "h": [0.0, 1.0], "h.present": True},
        {"row": 11, "id": "n1", "h": None, "h.present": False},
    ]


def test_labels_that_hold_by_name() -> None:
    signature = vector(3).with_(names=("red", "big", "old"))
    found = {"h": stream([[1, -1, 2]])}
    (line,) = answers(graph("sigmoid", signature), found, batch(1, [True]))
    assert line["h.predicted"] == ["red", "old"]
    assert line["h.probabilities"][0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_tokens_have_a_mask() -> None:
    found = {"h": stream([[[0, 1], [3, 2]]], mask=np.array([[True, False]]))}
    (line,) = answers(graph("softmax", vector(2)), found, batch(1, [True]))
    assert line["h.predicted"] == [1, 0]
    assert line["h.mask"] == [True, False]


def test_links_do_not_overflow() -> None:
    wild = np.array([[1000.0, -1000.0]])
    np.testing.assert_array_equal(softmax(wild), [[1, 0]])
    np.testing.assert_array_equal(sigmoid(wild), [[1, 0]])
    np.testing.assert_allclose(sigmoid(np.array([0.0])), [0.5])

"""ONNX, where what writes and runs it is installed; otherwise that it says what to install."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import fusekit
from fusekit.errors import ExportError
from fusekit.export import export
from fusekit.export.function import Function
from fusekit.export.onnx import write_onnx
from tests.export.conftest import Toy, arrays_of
from tests.export.shipped import EVERY, inputs_of, parameters_of

HERE = importlib.util.find_spec("jax2onnx") is not None


def test_what_is_missing_is_told(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ExportError, match="pip install --no-deps jax2onnx"):
        export(toy.program, toy.state, tmp_path / "x", platforms=["cpu"], onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not HERE, reason="jax2onnx is not installed")
@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_of_the_live_model(toy: Toy, tmp_path: Path):
    """For every subset of optional inputs and two numbers of rows."""
    runtime = pytest.importorskip("onnxruntime")
    export(toy.program, toy.state, tmp_path / "x", platforms=["cpu"], onnx=True)
    session = runtime.InferenceSession(str(tmp_path / "x" / "model.onnx"))
    names = [one.name for one in session.get_outputs()]
    assert names == ["kind", "words", "words.presence"]
    for rows in (4, 1):
        arrays = arrays_of(rows, seed=rows)
        live = toy.live(arrays)
        for name, found in zip(names, session.run(names, arrays), strict=True):
            np.testing.assert_allclose(found, live[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="jax2onnx is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_system_answers_the_same_as_onnx(path: Path, tmp_path: Path):
    runtime = pytest.importorskip("onnxruntime")
    program = fusekit.compile(fusekit.load(path))
    state = program.init(0)
    function = Function(program.graph)
    file = write_onnx(function, parameters_of(program, state, function), tmp_path)
    inputs, batch = inputs_of(function)
    session = runtime.InferenceSession(str(file))
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(names, inputs), strict=True))
    for name, stream in program.predict(state, batch).items():
        np.testing.assert_allclose(found[name], stream.values, rtol=1e-4, atol=1e-5)

"""ONNX, where what writes and runs it is installed; otherwise that it says what to install."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fusekit.errors import ExportError
from fusekit.export import export
from tests.export.conftest import Toy, arrays_of

HERE = importlib.util.find_spec("jax2onnx") is not None


@pytest.mark.skipif(HERE, reason="jax2onnx is installed")
def test_what_is_missing_is_told(toy: Toy, tmp_path: Path):
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

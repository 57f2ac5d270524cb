"""ONNX, where what writes and runs it is installed; otherwise that it says what to install.

Files are written by another process: jax2onnx leaves functions of `jax.numpy` changed behind it.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusekit
from fusekit.errors import ExportError
from fusekit.export import export
from fusekit.export.function import Function
from tests.export.conftest import Toy, arrays_of
from tests.export.shipped import EVERY, inputs_of

ROOT = Path(__file__).parents[2]
HERE = importlib.util.find_spec("jax2onnx") is not None
TOY = """
from tests.export.conftest import SECTIONS, random_state
program = fusekit.compile(SECTIONS | {"version": 1})
state = random_state(program)
"""
SHIPPED = """
program = fusekit.compile(fusekit.load(sys.argv[2]))
state = program.init(0)
"""
UNKNOWN = {
    name: pytest.mark.xfail(reason=f"jax2onnx does not know {what}", strict=True)
    for name, what in {
        "4m": "a scatter into a number of rows that is not known",
        "deq_fusion": "an array of one value with a number of rows that is not known",
        "imp": "a loop over a number of rows that is not known",
        "mm_lego": "padding of a number of rows that is not known",
        "multimae": "resizing of a number of rows that is not known",
        "ssma_adapnet": "resizing of a number of rows that is not known",
        "align_mamba": "the types of a maximum in a loop",
    }.items()
}


def session_of(made: str, folder: Path, *words: str) -> Any:
    """The model that the code `made` makes, as ONNX in a session."""
    runtime = pytest.importorskip("onnxruntime")
    code = (
        f"import sys, fusekit\nfrom fusekit.export import export\n{made}\n"
        "export(program, state, sys.argv[1], platforms=['cpu'], onnx=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return runtime.InferenceSession(str(folder / "model.onnx"))


def test_what_is_missing_is_told(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ExportError, match="pip install --no-deps 'jax2onnx"):
        export(toy.program, toy.state, tmp_path / "x", platforms=["cpu"], onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not HERE, reason="jax2onnx is not installed")
def test_answers_are_those_of_the_live_model(toy: Toy, tmp_path: Path):
    """For every subset of optional inputs and two numbers of rows."""
    session = session_of(TOY, tmp_path / "x")
    names = [one.name for one in session.get_outputs()]
    assert names == ["kind", "words", "words.presence"]
    for rows in (4, 1):
        arrays = arrays_of(rows, seed=rows)
        live = toy.live(arrays)
        for name, found in zip(names, session.run(names, arrays), strict=True):
            np.testing.assert_allclose(found, live[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="jax2onnx is not installed")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=UNKNOWN.get(path.stem, ()), id=path.stem) for path in EVERY],
)
def test_a_system_answers_the_same_as_onnx(path: Path, tmp_path: Path):
    session = session_of(SHIPPED, tmp_path / "x", str(path))
    program = fusekit.compile(fusekit.load(path))
    inputs, batch = inputs_of(Function(program.graph))
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(names, inputs), strict=True))
    for name, stream in program.predict(program.init(0), batch).items():
        np.testing.assert_allclose(found[name], stream.values, rtol=1e-4, atol=1e-5)

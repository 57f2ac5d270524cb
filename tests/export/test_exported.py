"""Reading an export: damage is found, and what is missing is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusekit.errors import ExportError
from fusekit.export import load
from tests.export.conftest import Toy, arrays_of


@pytest.fixture
def copy(toy: Toy, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy.folder, tmp_path / "copy"))


def test_answers_are_those_of_the_program(toy: Toy):
    arrays = arrays_of(4)
    found = load(toy.folder)(arrays)
    for name, value in toy.live(arrays).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6)


def test_a_compiled_size_takes_no_other(toy: Toy):
    exported = load(toy.folder)
    call = exported.compiled(4)
    arrays = arrays_of(4)
    found = np.asarray(call(exported.parameters, arrays)["kind"])
    np.testing.assert_allclose(found, exported(arrays)["kind"], rtol=0, atol=1e-6)
    with pytest.raises(TypeError):
        call(exported.parameters, arrays_of(3))


def test_inputs_that_do_not_fit_are_told(toy: Toy):
    exported, arrays = load(toy.folder), arrays_of(2)

    def failing(message: str, **changes: Any) -> None:
        given = {name: a for name, a in {**arrays, **changes}.items() if a is not None}
        with pytest.raises(ExportError, match=message):
            exported(given)

    failing("no input is called txet: text", txet=arrays["text"])
    failing("the input record is missing", record=None)
    failing("the input image is missing", image=None)
    failing(r"text has shape \(2, 4\); expected \(batch, 5\)", text=arrays["text"][:, :4])
    failing(r"record has shape \(1, 2\); expected \(batch, 2\)", record=arrays["record"][:1])
    with pytest.raises(ExportError, match=r"image has shape \(0, 4, 4, 1\)"):
        exported({name: array[:0] for name, array in arrays.items()})


def test_one_flipped_bit_is_found(copy: Path):
    for name in ("program.cpu", "parameters.safetensors"):
        file = copy / name
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ExportError, match=rf"{name} is not as it was written"):
            load(copy)
        file.write_bytes(before)
    load(copy)


def test_what_is_missing_is_told(copy: Path, tmp_path: Path):
    with pytest.raises(ExportError, match=r"is no export: it has no export\.json"):
        load(tmp_path)
    with pytest.raises(ExportError, match="has no program for rocm: cpu, cuda, tpu"):
        load(copy, platform="rocm")
    (copy / "parameters.safetensors").unlink()
    with pytest.raises(ExportError, match=r"parameters\.safetensors is missing"):
        load(copy)


def test_a_manifest_that_is_none(copy: Path):
    file = copy / "export.json"
    before = json.loads(file.read_text(encoding="utf-8"))

    def failing(message: str, **changes: Any) -> None:
        file.write_text(json.dumps({**before, **changes}), encoding="utf-8")
        with pytest.raises(ExportError, match=message):
            load(copy)

    failing("has format 2; this fusekit reads 1", format=2)
    failing("does not describe an export", inputs=[{"name": "x"}])
    failing("does not describe an export", programs=3)
    outside = {**before["parameters"], "file": "../parameters.safetensors"}
    failing("is no file of the folder", parameters=outside)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ExportError, match="does not describe an export"):
        load(copy)

"""Programs with kernels: one a platform, for a fixed number of rows, called for any number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fusekit
from fusekit.cli.main import run
from fusekit.errors import ExportError
from fusekit.export import export, load
from fusekit.export.exported import Exported
from fusekit.export.function import Function
from fusekit.export.lower import deserialised, lowered
from fusekit.program import Program
from tests.export.conftest import random_state

STACK = {"type": "transformer", "depth": 2, "width": 32, "heads": 2}
SECTIONS: dict[str, Any] = {
    "version": 1,
    "modalities": {
        "image": {"type": "features", "width": 3, "length": 4, "optional": True},
        "sound": {"type": "features", "width": 3, "length": 6, "optional": True},
        "label": {"type": "label", "classes": 3},
    },
    "encoders": {"image": STACK, "sound": STACK},
    "fusion": {"joint": {"type": "bottleneck", "tokens": 2, "into": ["image@1..", "sound@1.."]}},
    "heads": {
        "kind": {"type": "classifier", "input": "image.mean", "classes": 3},
        "other": {"type": "classifier", "input": "sound.mean", "classes": 3},
    },
    "losses": {
        "kind": {"type": "cross_entropy", "prediction": "kind", "target": "batch.label"},
        "other": {"type": "cross_entropy", "prediction": "other", "target": "batch.label"},
    },
}
ROWS = 4
PLAIN = ("shape_assertion",)
"""That there is a row: of any program for any number of them."""


def rows(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {
        "image": rng.normal(size=(count, 4, 3)).astype("float32"),
        "image.mask": rng.random((count, 4)) < 0.8,
        "image.presence": np.arange(count) % 3 > 0,
        "sound": rng.normal(size=(count, 6, 3)).astype("float32"),
        "sound.mask": rng.random((count, 6)) < 0.8,
        "sound.presence": np.arange(count) % 2 > 0,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Any, Path]:
    program = fusekit.compile(SECTIONS)
    state, folder = random_state(program), tmp_path_factory.mktemp("export") / "made"
    export(program, state, folder, kernels=ROWS)
    return program, state, folder


def live(program: Program, state: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    batch = {
        name: fusekit.Stream(
            *(arrays[f"{name}{part}"] for part in ("", ".mask", ".presence"))  # pyright: ignore
        )
        for name in ("image", "sound")
    }
    found = program.predict(state, batch)
    return {name: np.asarray(stream.values) for name, stream in found.items()}


def text(folder: Path, platform: str) -> str:
    return deserialised((folder / f"program.{platform}").read_bytes()).mlir_module()


def test_each_platform_has_its_kernels(made: Any):
    folder = made[2]
    programs = load(folder).manifest.programs
    assert {name: one.rows for name, one in programs.items()} == {
        "cpu": None,
        "cuda": ROWS,
        "tpu": ROWS,
    }
    assert "tpu_custom_call" in programs["tpu"].custom_calls
    assert "__gpu$xla.gpu.triton" in programs["cuda"].custom_calls
    assert programs["cpu"].custom_calls == PLAIN
    assert text(folder, "tpu").count("@tpu_custom_call") >= 1
    assert "__gpu$xla.gpu.triton" in text(folder, "cuda")
    for platform in ("cuda", "tpu"):
        program = deserialised((folder / f"program.{platform}").read_bytes())
        inputs = program.in_tree.unflatten(program.in_avals)[0][1]
        assert {name: aval.shape[0] for name, aval in inputs.items()} == dict.fromkeys(
            rows(1), ROWS
        )


def test_the_program_for_cpus_is_the_live_model(made: Any):
    program, state, folder = made
    exported = load(folder)
    for count in (1, 5):
        arrays = rows(count)
        found, due = exported(arrays), live(program, state, arrays)
        for name in due:
            np.testing.assert_allclose(found[name], due[name], rtol=1e-5, atol=1e-6)


def test_without_asking_programs_are_portable(made: Any, tmp_path: Path):
    program, state, _ = made
    manifest = export(program, state, tmp_path / "plain", platforms=["tpu"])
    for stored in manifest.programs.values():
        assert (stored.rows, stored.custom_calls) == (None, PLAIN)


def test_what_the_mesh_asks_for_holds(made: Any, tmp_path: Path):
    own = {"components": {"image": {"kernel": "xla"}}}
    program = fusekit.compile({**SECTIONS, "mesh": own})
    function = Function(program.graph).on(jax.devices()[0])
    assert function.model.graph.experiment.mesh.kernel_of("image") == ("xla", True)
    assert function.model.graph.experiment.mesh.kernel_of("sound") == ("pallas", False)
    program = fusekit.compile({**SECTIONS, "mesh": {"kernel": "xla"}})
    manifest = export(program, made[1], tmp_path / "xla", platforms=["tpu"], kernels=ROWS)
    assert (manifest.programs["tpu"].rows, manifest.programs["tpu"].custom_calls) == (None, PLAIN)


def fixed(made: Any) -> Exported:
    """A program for this CPU that takes `ROWS` rows, as one with kernels does."""
    program, _, folder = made
    exported = load(folder)
    own = lowered(Function(program.graph), "cpu", rows=ROWS)
    stored = replace(exported.manifest.programs["cpu"], rows=ROWS)
    manifest = replace(exported.manifest, programs={"cpu": stored})
    return replace(exported, manifest=manifest, program=own)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 11])
def test_a_program_for_some_rows_answers_for_any_number(made: Any, count: int):
    arrays, one = rows(count), fixed(made)
    due = load(made[2])(arrays)
    executable = one.compiled(count)
    for found in (one(arrays), executable(one.parameters, arrays)):
        assert set(found) == set(due)
        for name in due:
            np.testing.assert_allclose(np.asarray(found[name]), due[name], rtol=1e-5, atol=1e-6)


def test_rows_that_see_each_other_are_not_filled_up(made: Any):
    one = fixed(made)
    one = replace(one, manifest=replace(one.manifest, coupled=("image",)))
    assert one(rows(ROWS))["kind"].shape == (ROWS, 3)
    with pytest.raises(ExportError, match="takes 4 rows, not 3: image would see those that fill"):
        one(rows(3))


def test_the_command(made: Any, tmp_path: Path, capsys: Any):
    assert run(["export", str(tmp_path), "--kernels", "0"]) == 2
    assert "kernels" in capsys.readouterr().err

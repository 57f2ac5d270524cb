"""`fusekit export` of a run, and what it says of raw data."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusekit as package
from fusekit.cli.main import run
from fusekit.export import load
from tests.docs.pages import ROOT

TINY = ROOT / "tests" / "cli" / "tiny.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows whose scale is far from 1."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "rows.npz",
        left=rng.normal(5, 3, (24, 4)).astype("float32"),
        right=rng.normal(-2, 0.1, (24, 3)).astype("float32"),
        label=np.arange(24) % 2,
    )
    data = {
        "type": "arrays",
        "path": str(folder / "rows.npz"),
        "standardise": ["left"],
        "split": {"type": "holdout", "fractions": {"train": 0.5, "test": 0.5}},
    }
    sets = [f"data={json.dumps({'made': None, 'here': data})}", "train.steps=2"]
    options = [word for one in sets for word in ("--set", one)]
    assert run(["train", str(TINY), "--runs", str(folder), "--quiet", *options]) == 0
    (found,) = (folder / "tiny").iterdir()
    return found


def test_a_run_is_exported_beside_itself(trained: Path, capfd: Any):
    assert run(["export", str(trained), "--platforms", "cpu,tpu"]) == 0
    out = capfd.readouterr().out
    assert "inputs    left, right" in out
    assert "answers   class" in out
    assert "platforms cpu, tpu" in out
    folder = trained / "export"
    files = {file.name for file in folder.iterdir()}
    assert files == {"export.json", "parameters.safetensors", "program.cpu", "program.tpu"}
    told = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert told["origin"] == {"run": trained.name, "step": 2, "state": "best"}
    assert told["name"] == "tiny"
    assert str(trained.parent) not in json.dumps(told)
    left, right = told["inputs"]
    experiment = package.load(trained / "config.yaml")
    rows = experiment.data["here"].open("train", experiment.modalities)
    given = np.array([row["left"] for row in rows], "float64")
    np.testing.assert_allclose(left["standardised"]["mean"], given.mean(0), rtol=1e-6)
    np.testing.assert_allclose(left["standardised"]["deviation"], given.std(0), rtol=1e-6)
    assert right["standardised"] is None
    assert run(["export", str(trained)]) == 2
    assert "exists and is not an empty folder" in capfd.readouterr().err


def test_standardised_rows_get_the_answers_of_predict(trained: Path, tmp_path: Path):
    """Raw rows, scaled as `export.json` says, against `fusekit predict` on the same rows."""
    folder = tmp_path / "made"
    assert run(["export", str(trained), "-o", str(folder), "--platforms", "cpu"]) == 0
    answers = tmp_path / "answers.jsonl"
    assert run(["predict", str(trained), "--split", "test", "-o", str(answers), "-q"]) == 0
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    exported = load(folder)
    scale = exported.manifest.inputs[0].standardised
    assert scale is not None
    experiment = package.load(trained / "config.yaml")
    rows = experiment.data["here"].rows(experiment.modalities)
    raw = [rows[line["row"]] for line in lines]
    left = np.array([row["left"] for row in raw], "float64")
    scaled = (left - scale["mean"]) / np.array(scale["deviation"])
    found = exported(
        {
            "left": scaled.astype("float32"),
            "right": np.array([row["right"] for row in raw], "float32"),
            "right.presence": np.ones(len(raw), bool),
        }
    )
    np.testing.assert_allclose(found["class"], [line["class"] for line in lines], atol=1e-5)


def test_mistakes_are_told(trained: Path, tmp_path: Path, capfd: Any):
    for words, message in (
        ((tmp_path,), "is no run folder"),
        ((trained, "--heads", "clas"), "no head is called clas: class\n    did you mean: class"),
        ((trained, "--platforms", "gpu"), "no platform is called gpu: cpu, cuda, tpu"),
        ((trained, "--precision", "lowest"), "no precision is called lowest"),
    ):
        assert run(["export", *map(str, words), "-o", str(tmp_path / "x")]) == 2
        assert message in capfd.readouterr().err
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["flatbuffers", "starlette", "uvicorn"])
def test_a_missing_extra_is_told(
    trained: Path, tmp_path: Path, name: str, monkeypatch: Any, capfd: Any
):
    for module in [*sys.modules]:
        if module.startswith(("jax._src.export.serialization", "fusekit.export.serve", name)):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Without(name), *sys.meta_path])
    exporting = ["export", str(trained), "-o", str(tmp_path / "x"), "--platforms", "cpu"]
    extra = "export" if name == "flatbuffers" else "serve"
    assert run(exporting if extra == "export" else ["serve", str(tmp_path)]) == 2
    assert f"pip install 'fusekit[{extra}]'" in capfd.readouterr().err


class Without:
    """Imports as they go where a package is not installed."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

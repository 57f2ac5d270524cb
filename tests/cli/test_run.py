"""train, evaluate, predict: one run from beginning to end."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import fusekit as package
from fusekit.cli.main import run
from fusekit.data.pipeline import Pipeline

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert run(["train", str(HERE / "tiny.yaml"), "--runs", str(runs), "--quiet"]) == 0
    (folder,) = (runs / "tiny").iterdir()
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_train_leaves_a_picture_in_the_report(trained: Path) -> None:
    assert "<svg" in (trained / "report.html").read_text(encoding="utf-8")


def test_evaluate_finds_what_training_found(trained: Path, fusekit: Any) -> None:
    summary = json.loads((trained / "summary.json").read_text(encoding="utf-8"))
    for split in ("test", "validation"):
        ran = fusekit("evaluate", trained, "--split", split, "--json")
        assert ran.status == 0, ran.err
        found = json.loads(ran.out)
        assert found["step"] == 12
        assert found["values"] == pytest.approx(summary["metrics"][split], rel=1e-6)
    table = fusekit("evaluate", trained).out.splitlines()
    assert table[0] == "test, step 12"
    assert [line.split()[0] for line in table[1:]] == ["loss", "losses.class", "accuracy"]


def test_evaluate_refuses_what_is_not_there(trained: Path, fusekit: Any) -> None:
    for arguments, message in (
        ((trained.parent,), "is no run folder"),
        ((trained, "--replica", 1), "replica 1 does not exist"),
        ((trained, "--state", "worst"), "--state is one of best, last"),
        ((trained, "--split", "tset"), "tset"),
    ):
        ran = fusekit("evaluate", *arguments)
        assert ran.status == 2
        assert message in ran.err


def test_predictions_agree_with_the_program(trained: Path, fusekit: Any, tmp_path: Path) -> None:
    """Against `Program.predict` on the same rows, with probabilities by hand."""
    from fusekit.train.checkpoint import Checkpoints

    output = tmp_path / "answers.jsonl"
    assert fusekit("predict", trained, "--split", "test", "-o", output).status == 0
    found = rows(output)
    experiment = package.load(trained / "config.yaml")
    program = package.compile(experiment)
    state = Checkpoints(trained / "checkpoints", wait=True).restore(program).state
    kinds = {name: experiment.modalities[name] for name in ("left", "right")}
    batches = Pipeline(experiment.data, kinds, batch=10, seed=0, split="test", training=False)
    (batch,) = list(batches)
    logits = np.asarray(program.predict(state, batch.streams)["class"].values, np.float64)
    assert [row["row"] for row in found] == batch.index.tolist()
    np.testing.assert_allclose([row["class"] for row in found], logits, rtol=1e-5)
    for row, (cat, dog) in zip(found, logits, strict=True):
        assert row["class.probabilities"][1] == pytest.approx(
            1 / (1 + math.exp(cat - dog)), rel=1e-5
        )
        assert row["class.predicted"] == ("cat" if cat > dog else "dog")
        assert row["class.present"] is True


def test_rows_of_a_file(trained: Path, fusekit: Any, tmp_path: Path) -> None:
    """Labels are not needed; an absent modality is absent; what has none of them is null."""
    index = tmp_path / "rows.jsonl"
    lines = [
        {"left": [1.0, 2.0, 3.0, 4.0], "right": [1.0, 0.0, 1.0]},
        {"left": [1.0, 2.0, 3.0, 4.0], "right": None},
    ]
    index.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    output = tmp_path / "answers.parquet"
    ran = fusekit("predict", trained, "--input", index, "--output", output)
    assert ran.status == 0, ran.err
    found = pq.read_table(output).to_pylist()
    assert [row["row"] for row in found] == [0, 1]
    assert found[0]["class"] != found[1]["class"]
    assert sum(found[0]["class.probabilities"]) == pytest.approx(1)


def test_rows_of_a_file_are_scaled_like_training_rows(fusekit: Any, tmp_path: Path) -> None:
    """By mean and deviation of the training rows of the source, not of the file."""
    from fusekit.cli.index import follow

    table = tmp_path / "train.csv"
    text = "x,label,part\n" + "".join(f"{x},{x % 2},train\n" for x in (0, 2, 4, 6)) + "9,1,test\n"
    table.write_text(text, encoding="utf-8")
    config = tmp_path / "scaled.yaml"
    config.write_text(
        f"""version: 1
modalities: {{x: {{type: number}}, label: {{type: label, classes: 2}}}}
encoders: {{x: {{type: mlp, width: 2}}}}
heads: {{class: {{type: classifier, input: x, classes: 2}}}}
losses: {{class: {{type: cross_entropy, prediction: class, target: batch.label}}}}
data: {{t: {{type: table, path: {table}, given: part, standardise: [x]}}}}
train: {{batch: 2}}
""",
        encoding="utf-8",
    )
    experiment = package.load(config)
    index = tmp_path / "new.csv"
    index.write_text("x\n3\n8\n", encoding="utf-8")
    source = follow(index, experiment.data, None, None)
    kinds = {"x": experiment.modalities["x"]}
    batches = Pipeline({"i": source}, kinds, batch=2, seed=0, split="test", training=False)
    (batch,) = list(batches)
    deviation = math.sqrt(np.mean([9, 1, 1, 9]))  # of 0, 2, 4, 6 about 3
    values = np.asarray(batch.streams["x"].values).ravel()
    np.testing.assert_allclose(values, [0, 5 / deviation], atol=1e-6)
    output = tmp_path / "answers.jsonl"
    ran = fusekit("predict", config, "--input", index, "-o", output)
    assert ran.status == 0, ran.err
    assert "untrained" in ran.err
    assert len(rows(output)) == 2


def test_predict_refuses(trained: Path, fusekit: Any, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    for arguments, message in (
        ((trained, "-o", out), "give one of --input and --split"),
        ((trained, "--split", "test", "-o", tmp_path / "a.txt"), ".parquet or .jsonl"),
        ((trained, "--input", tmp_path / "no.csv", "-o", out), "there is no file"),
        ((trained, "--input", HERE / "tiny.yaml", "--source", "x", "-o", out), "no source"),
    ):
        ran = fusekit("predict", *arguments)
        assert ran.status == 2
        assert message in ran.err


def test_resume_goes_on(fusekit: Any, tmp_path: Path) -> None:
    short = fusekit("train", HERE / "tiny.yaml", "--set", "train.steps=4", "--runs", tmp_path, "-q")
    assert short.status == 0, short.err
    (folder,) = (tmp_path / "tiny").iterdir()
    with pytest.warns(UserWarning, match="steps: 4 became steps: 6"):
        longer = fusekit("train", "--resume", folder, "--set", "train.steps=6", "-q")
    assert longer.status == 0, longer.err
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["steps"] == 6


def test_train_refuses_a_choice_of_beginnings(fusekit: Any, tmp_path: Path) -> None:
    assert "which CONFIG" in fusekit("train").err
    both = fusekit("train", HERE / "tiny.yaml", "--resume", tmp_path, "--start", tmp_path)
    assert both.status == 2


def test_train_refuses_to_go_on_with_what_is_no_run(fusekit: Any, tmp_path: Path) -> None:
    ran = fusekit("train", "--resume", tmp_path, "-q")
    assert (ran.status, ran.err) == (2, f"{tmp_path} is no run folder: it has no config.yaml\n")
    (tmp_path / "config.yaml").write_text((HERE / "tiny.yaml").read_text(encoding="utf-8"))
    (tmp_path / "best").mkdir()
    ran = fusekit("train", "--resume", tmp_path, "-q")
    assert ran.status == 2
    assert "holds no state to go on from" in ran.err
    assert f"--start {tmp_path}/best" in ran.err


def test_a_stopped_run_says_how_to_go_on(fusekit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = SimpleNamespace(stopped="SIGTERM", steps=3, folder="runs/a/b", metrics={})
    monkeypatch.setattr("fusekit.train.experiment.train", lambda *a, **k: result)
    ran = fusekit("train", HERE / "tiny.yaml")
    assert ran.status == 143
    assert "fusekit train --resume runs/a/b" in ran.err


def test_a_folder_of_runs_that_is_a_file(fusekit: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = fusekit("train", HERE / "tiny.yaml", "--runs", tmp_path / "file", "-q")
    assert ran.status == 2
    assert "cannot be made: Not a directory" in ran.err


def test_evaluate_tells_which_replica(fusekit: Any, tmp_path: Path) -> None:
    """The number is remembered, though a killed run has no summary."""
    words = ("--set", "train.steps=2", "--set", "train.select=accuracy", "--runs", tmp_path, "-q")
    assert fusekit("train", HERE / "tiny.yaml", "--replicas", 2, *words).status == 0
    (folder,) = (tmp_path / "tiny").iterdir()
    (folder / "summary.json").unlink()
    ran = fusekit("evaluate", folder, "--replica", 1)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[0] == "test, step 2, replica 1 of 2"
    assert "compiling, then evaluating 2 batches" in ran.err
    assert fusekit("evaluate", folder, "--replica", 2).status == 2
    longer = fusekit("train", "--resume", folder, "-q")
    assert longer.status == 0, longer.err


TABLE = """version: 1
modalities:
  x: {{type: features, width: 2, optional: true}}
  label: {{type: label, classes: 2}}
encoders: {{x: {{type: mlp, width: 2}}}}
heads: {{class: {{type: classifier, input: x, classes: 2}}}}
losses: {{class: {{type: cross_entropy, prediction: class, target: batch.label}}}}
data:
  t:
    type: table
    path: {path}
    vectors: {{x: [a, b], y: [right, left]}}
    provides: {{label: right}}
    standardise: [x]
train: {{batch: 2}}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    config = tmp_path / "t.yaml"
    config.write_text(TABLE.format(path=tmp_path / "train.csv"), encoding="utf-8")
    lines = ["a,b,right,left,part", *(f"{k},{2 * k},{k % 2},0,train" for k in range(4))]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config.write_text(
        config.read_text(encoding="utf-8").replace("type: table", "type: table\n    given: part"),
        encoding="utf-8",
    )
    return config


def test_an_index_needs_no_labels_and_may_name_its_rows(
    table: Path, fusekit: Any, tmp_path: Path
) -> None:
    index, output = tmp_path / "new.csv", tmp_path / "answers.jsonl"
    index.write_text("name,a,b\nanna,1,2\nbert,,\n", encoding="utf-8")
    ran = fusekit("predict", table, "--input", index, "--ids", "name", "-o", output, "-q")
    assert ran.status == 0, ran.err
    found = rows(output)
    assert [row["id"] for row in found] == ["anna", "bert"]
    assert found[1]["class"] is None
    for names, message in (
        ("anna,1,2\nanna,3,4\n", "name is anna in rows 0 and 1"),
        ("anna,1,2\n,3,4\n", "name is empty in row 1"),
        ("anna,1,2\nbert,x,4\n", "vectors.x takes numbers, and a holds 'x' in row 1"),
    ):
        index.write_text(f"name,a,b\n{names}", encoding="utf-8")
        ran = fusekit("predict", table, "--input", index, "--ids", "name", "-o", output, "-q")
        assert ran.status == 2
        assert message in ran.err
    ran = fusekit("predict", table, "--split", "train", "--ids", "name", "-o", output)
    assert "tell how --input is read" in ran.err

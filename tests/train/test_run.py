import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from fusekit.config import load
from fusekit.errors import FusekitError, LayoutError
from fusekit.train.environment import environment
from fusekit.train.experiment import train
from fusekit.train.files import write, write_json
from fusekit.train.report import read_metrics, report
from fusekit.train.run import Run
from tests.train import tiny


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return train(tiny.experiment({"select": "gap"}), run_root=root, name="t", progress=False)


def test_the_folder_holds_all_of_it(result):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?", result.folder.name)
    assert {path.name for path in result.folder.iterdir()} == {
        "best",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "summary.json",
        "tensorboard",
    }
    again = load(result.folder / "config.yaml").experiment
    assert again == tiny.experiment({"select": "gap"})


def test_metrics_are_one_object_a_line(result):
    lines = [json.loads(x) for x in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(list(line) == ["step", "time", "split", "values"] for line in lines)
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 9))
    assert [line["step"] for line in lines if line["split"] == "validation"] == [3, 6, 8]
    names = {"loss", "losses.fit", "losses.sure"}
    assert all(names <= set(line["values"]) for line in lines)
    one = next(line["values"] for line in lines if line["split"] == "train")
    assert one["loss"] == pytest.approx(1.25 * one["losses.fit"], rel=1e-6)
    assert lines[-1]["split"] == "test"
    assert lines[-1]["values"] == result.metrics["test"]


def test_the_summary_counts_parameters_by_node(result):
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["steps"] == result.steps == 8
    assert summary["metrics"] == result.metrics
    assert summary["parameters"]["out"] == 8 * 3 + 3
    assert summary["parameters"]["table"] == 3 * 4 + 4 + 4 * 4 + 4
    assert summary["best"]["metric"] == "gap"


def test_the_report_needs_nothing_else(result):
    page = (result.folder / "report.html").read_text()
    assert "<svg" in page
    assert page.count("<polyline") >= 3
    assert "accuracy" in page
    assert "type: transformer" in page
    assert not re.search(r"(src|href)=|<script|@import|url\(", page)
    report(result.folder, pictures=[("the graph", "<svg><title>drawn</title></svg>")])
    assert "drawn" in (result.folder / "report.html").read_text()


def test_resuming_a_finished_run_repeats_its_results(result):
    again = train(tiny.experiment({"select": "gap"}), resume=result.folder, progress=False)
    assert again.folder == result.folder
    assert again.metrics == result.metrics


def test_going_on_with_another_config_is_said(result):
    with pytest.warns(UserWarning, match=r"differs.*learning_rate: 0.01.*became.*0.02"):
        Run.reopen(result.folder, tiny.experiment({"select": "gap", "learning_rate": 0.02}))
    with pytest.raises(FusekitError, match="is no run folder"):
        Run.reopen(result.folder / "best", tiny.experiment())


def test_what_compare_leaves_of_a_model_is_no_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "best").mkdir()
    with pytest.raises(FusekitError, match="holds no state to go on from"):
        Run.reopen(tmp_path, tiny.experiment())


def test_a_failure_is_in_the_summary(tmp_path):
    source = {"type": "synthetic", "sizes": {"train": 20}}
    declared = tiny.experiment({"select": "gap"}, data={"made": source})
    with pytest.raises(FusekitError, match=r"train\.select"):
        train(declared, run_root=tmp_path, name="bad", progress=False)
    (folder,) = (tmp_path / "bad").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed (FusekitError)"
    assert "train.select" in summary["error"]
    assert (folder / "report.html").is_file()


def test_replicas_share_a_folder(tmp_path):
    declared = tiny.experiment({"select": "accuracy", "steps": 3})
    result = train(declared, run_root=tmp_path, replicas=2, progress=False)
    assert len(result.metrics["test"]) == 2
    assert {p.name for p in result.folder.iterdir()} >= {"best_0", "best_1"}
    lines = read_metrics(result.folder)
    assert all(len(v) == 2 for line in lines for v in line["values"].values())
    assert "replica 1" in (result.folder / "report.html").read_text()


def test_two_runs_of_one_second_do_not_collide(tmp_path):
    made = [Run.create(tiny.experiment(), root=tmp_path, name="n") for _ in range(3)]
    assert len({run.folder for run in made}) == 3
    with pytest.raises(FusekitError, match="cannot be called"):
        Run.create(tiny.experiment(), root=tmp_path, name="../up")


def test_numbers_that_are_not_finite_are_null(tmp_path):
    run = Run.create(tiny.experiment(), root=tmp_path, name="n")
    run.log(1, "train", {"loss": float("nan"), "norm": np.float32(2)})
    run.log(2, "train", [{"loss": 1.0}, {"loss": float("inf")}])
    run.close()
    assert [line["values"] for line in read_metrics(run.folder)] == [
        {"loss": None, "norm": 2.0},
        {"loss": [1.0, None]},
    ]
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ti')
    run.rewind(1)
    assert [line["step"] for line in read_metrics(run.folder)] == [1]


def test_the_environment_holds_no_variables(monkeypatch):
    monkeypatch.setenv("SOME_SECRET", "do-not-write-this")
    found = environment()
    assert found["packages"]["jax"]
    assert "do-not-write-this" not in json.dumps(found)
    assert not set(found) & {"environ", "env"}


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fails(*_):
        raise OSError(28, "disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full") as caught:
        write(path, "half")
    assert caught.value.filename == str(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a.json"]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("change", [{"width": 6}, {"train": {"batch": 5}}])
def test_a_resume_that_fails_leaves_the_run_as_it_was(result, change):
    before = contents(result.folder)
    train_section = {"select": "gap", **change.pop("train", {})}
    other = tiny.experiment(train_section, **change)
    with pytest.warns(UserWarning, match="differs"), pytest.raises(FusekitError):
        train(other, resume=result.folder, progress=False)
    assert contents(result.folder) == before


def test_the_number_of_replicas_is_remembered(tmp_path):
    declared = tiny.experiment({"steps": 2})
    folder = train(declared, run_root=tmp_path, replicas=2, progress=False).folder
    with pytest.raises(FusekitError, match="trains 2 replicas, not 3"):
        train(declared, resume=folder, replicas=3, progress=False)
    (folder / "summary.json").unlink()
    with pytest.warns(UserWarning, match="differs"):
        longer = train(tiny.experiment({"steps": 3}), resume=folder, progress=False)
    assert longer.steps == 3
    assert len(longer.metrics["test"]) == 2


def test_a_run_without_checkpoints_remembers_its_replicas(tmp_path):
    run = Run.create(tiny.experiment(), root=tmp_path, name="n", replicas=2)
    assert Run.reopen(run.folder, tiny.experiment()).replicas() == 2
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "running"


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FusekitError, match=r"file/n/.* cannot be made"):
        Run.create(tiny.experiment(), root=file, name="n")


def test_a_mesh_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(LayoutError, match="devices"):
        train(tiny.experiment(mesh={"data": 4096}), run_root=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


def test_test_metrics_stand_at_the_best_step_and_once(tmp_path):
    declared = tiny.experiment({"select": "accuracy", "learning_rate": 1e-9})  # all are equal
    first = train(declared, run_root=tmp_path, progress=False)
    again = train(declared, resume=first.folder, progress=False)
    lines = [line for line in read_metrics(first.folder) if line["split"] == "test"]
    assert [line["step"] for line in lines] == list(again.fitted.best_steps)
    assert [line["step"] for line in lines] == [3]


def test_paths_of_data_are_absolute_in_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {
        "a": {"type": "table", "path": "rows.csv"},
        "b": {"type": "table", "path": "~/rows.csv"},
        "c": {"type": "webdataset", "shards": {"train": "train-*.tar"}},
    }
    run = Run.create(tiny.experiment(data=data), root="runs", name="n")
    written = load(run.folder / "config.yaml").experiment.data
    assert written["a"].path == tmp_path / "rows.csv"
    assert str(written["b"].path) == "~/rows.csv"
    assert written["c"].shards == {"train": str(tmp_path / "train-*.tar")}


def test_the_environment_tells_fusekits_own_commit(tmp_path, monkeypatch):
    here = environment()["fusekit_git"]
    monkeypatch.chdir(tmp_path)
    assert environment()["git"] is None
    assert environment()["fusekit_git"] == here
    assert here is None or re.fullmatch("[0-9a-f]{40,64}", here["commit"])

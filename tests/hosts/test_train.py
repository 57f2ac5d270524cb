"""`fusekit train` over hosts: one folder, one log, the metrics of one host; clear refusals."""

import json
import re

import pytest

from fusekit.cli.main import run
from fusekit.errors import FusekitError
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.report import read_metrics
from fusekit.train.run import Run
from tests.hosts.group import Group, succeeded
from tests.hosts.measure import CONFIG, STEPS


def arguments(folder, *more):
    steps = f"train.steps={STEPS}"
    return (
        "-m",
        "fusekit",
        "train",
        CONFIG,
        "--runs",
        folder,
        "--name",
        "run",
        "--set",
        steps,
        *more,
    )


def test_two_hosts_train_as_one(tmp_path, alone):
    with Group(tmp_path, *arguments("runs", "--set", "mesh.data=-1"), hosts=2) as group:
        ended = group.wait()
    succeeded(ended)
    (folder,) = (tmp_path / "runs" / "run").iterdir()

    lines = [(line["step"], line["split"], line["values"]) for line in read_metrics(folder)]
    due = [(k + 1, "train", values) for k, values in enumerate(alone["steps"])]
    due.append((STEPS, "test", alone["metrics"]))
    found = [line for line in lines if line[1] != "validation"]
    for (step, split, values), (at, of, one) in zip(found, due, strict=True):
        assert (step, split) == (at, of)
        assert values.keys() == one.keys()
        for name, value in one.items():
            rel = 1e-4 if name == "gradient_norm" else 1e-5
            assert values[name] == pytest.approx(value, rel=rel), f"{name} of step {step}"
    assert [line[0] for line in lines if line[1] == "validation"] == [STEPS]

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("done", STEPS)
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert Checkpoints(folder / "checkpoints").verify() == {STEPS: []}
    assert (folder / "report.html").is_file()
    assert f"run runs/run/{folder.name}" in ended[0].out
    assert "validation: " in ended[0].err
    assert said(ended[1].out + ended[1].err) == []


def said(text):
    """Lines of ours: the collectives of the CPU have a word of their own."""
    return [line for line in text.splitlines() if line and not line.startswith("[Gloo]")]


def refused(tmp_path, *more, **environ):
    with Group(tmp_path, *arguments("runs", *more), hosts=2, **environ) as group:
        return group.wait()


@pytest.mark.slow
def test_a_mesh_that_leaves_a_host_idle_is_refused(tmp_path):
    for status, out, err in refused(tmp_path):
        assert status == 2
        assert "the mesh has 1 of 2 devices, none of them on host 1: say mesh.data: -1" in err
        assert "Traceback" not in err
        assert said(out) == []


def test_the_coordinator_must_be_there(tmp_path, capfd):
    given = ("--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEKIT_HOSTS_WAIT", "1")
        assert run([str(a) for a in arguments(tmp_path, *given)[2:]]) == 2
    told = capfd.readouterr().err
    assert re.match(r"the coordinator 127\.0\.0\.1:1 cannot be reached: 1 s, ", told)
    assert not list(tmp_path.iterdir())


def test_hosts_must_share_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("fusekit.train.run.SEEN", 0.2)
    run_ = Run(tmp_path)
    with pytest.raises(
        FusekitError, match=r"host 0 does not see .*, which the first host has made"
    ):
        run_._seen()
    (tmp_path / "summary.json").write_text("{}")
    run_._seen()


@pytest.mark.slow
def test_hosts_evaluate_as_one(tmp_path):
    with Group(tmp_path, *arguments("runs", "--set", "mesh.data=-1"), hosts=2) as group:
        succeeded(group.wait())
    (folder,) = (tmp_path / "runs" / "run").iterdir()
    command = ("-m", "fusekit", "evaluate", folder, "--split", "validation", "--output")
    with Group(tmp_path / "two", *command, "two.json", hosts=2) as group:
        two = group.wait()
    succeeded(two)
    with Group(tmp_path / "one", *command, "one.json", "--set", "mesh.data=1", hosts=1) as group:
        succeeded(group.wait())
    assert "validation, step 3" in two[0].out
    assert said(two[1].out + two[1].err) == []
    found, due = (json.loads((tmp_path / n / f"{n}.json").read_text()) for n in ("two", "one"))
    assert found["values"] == pytest.approx(due["values"], rel=1e-5)


@pytest.mark.slow
def test_stages_and_replicas_follow_one_another_over_hosts(tmp_path):
    config = tmp_path / "staged.yaml"
    stages = "stages:\n  apart: {trainable: [sound]}\n  together: {select: gap}\n"
    config.write_text(f"{CONFIG.read_text()}mesh: {{data: -1}}\n{stages}")
    command = ("-m", "fusekit", "train", config, "--name", "run", "--replicas", 2)
    command += ("--set", "train.steps=2")
    with Group(tmp_path, *command, hosts=2) as group:
        succeeded(group.wait())
    with Group(tmp_path / "one", *command, "--set", "mesh.data=1", hosts=1) as group:
        succeeded(group.wait())
    (two,), (one,) = (tuple((tmp_path / n / "runs" / "run").iterdir()) for n in (".", "one"))
    for stage in ("apart", "together"):
        lines = [read_metrics(folder / "stages" / stage) for folder in (one, two)]
        for alone, together in zip(*lines, strict=True):
            assert (alone["step"], alone["split"]) == (together["step"], together["split"])
            for name, values in alone["values"].items():
                assert together["values"][name] == pytest.approx(values, rel=1e-4), name
    assert json.loads((two / "summary.json").read_text())["status"] == "done"

"""What is said of backends: by `show`, `plan`, `check`, and in the folder of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

import fusekit
from fusekit.plan import Topology, compilers, planned, render

PAIR = Path(__file__).parent / "pair.yaml"


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Any:
    """Runs a command line in this process."""
    return request.getfixturevalue("fusekit")


def table(text: str) -> list[list[str]]:
    """Cells of the table of backends."""
    lines = text.splitlines()
    start = next(
        n for n, line in enumerate(lines) if line.split()[:2] == ["component", "operation"]
    )
    rows = [line.split(maxsplit=3) for line in lines[start + 1 :]]
    return [row for row in rows if len(row) == 4 and row[0] != "note:"]


@pytest.mark.parametrize(
    ("topology", "attention", "contrast"),
    [
        (
            None,
            ["xla", "there are no kernels for CPUs"],
            ["xla", "there are no kernels for CPUs"],
        ),
        (
            "v5e:2x2",
            ["xla", "not tpu: it has not been measured on a TPU"],
            ["xla", "not tpu: 64 scores are few"],
        ),
        (
            "h100:8",
            ["gpu", "it was measured to be ahead in half precision"],
            ["xla", "not gpu: 64 scores are few"],
        ),
    ],
)
def test_show_tells_what_runs_where(
    command: Any, topology: Any, attention: Any, contrast: Any
) -> None:
    asked = () if topology is None else ("--topology", topology)
    ran = command("show", PAIR, *asked)
    assert ran.status == 0, ran.err
    assert f"backends on {topology or 'a CPU'}\n" in ran.out
    assert table(ran.out) == [
        ["left", "attention", *attention],
        ["losses.align", "contrast", *contrast],
    ]


def test_show_follows_the_mesh(command: Any) -> None:
    ran = command("show", PAIR, "--topology", "v5e:2x2", "--set", "mesh.kernel=pallas")
    assert [row[2:] for row in table(ran.out)] == [["tpu", "as asked"]] * 2
    ran = command("show", PAIR, "--topology", "v5e:2x2", "--set", "mesh.data=3")
    assert (ran.status, ran.out) == (2, "")
    assert "is not the 4 devices of v5e:2x2" in ran.err
    ran = command("show", PAIR, "--topology", "v5e:2x2", "--format", "svg")
    assert "leave --format away" in ran.err


def test_show_without_operations_that_have_kernels(command: Any) -> None:
    ran = command("show", PAIR.with_name("tiny.yaml"), "--topology", "v5e:2x2")
    assert ran.status == 0
    assert "backends" not in ran.out


def test_plan_tells_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "find_spec", lambda name: None)
    plan = planned(fusekit.load(PAIR), Topology.parse("h100:8"))
    due = ["left", "attention", "gpu", "it was measured to be ahead in half precision"]
    assert due in table(render(plan))
    (first, _) = plan.plain()["kernels"]
    assert (first["component"], first["backend"]) == ("left", "gpu")
    assert first["shapes"].startswith("bfloat16[8,3,2,16]")
    json.dumps(plan.plain())


def test_check_tells_of_kernels_that_run_nowhere(command: Any, tmp_path: Path) -> None:
    config = tmp_path / "pair.yaml"
    more = "mesh:\n  fsdp: 1\n  components:\n    left_z: {kernel: pallas}\n"
    config.write_text(PAIR.read_text("utf-8") + more, "utf-8")
    ran = command("check", config, "--set", "train.trainable=[lefft]")
    assert ran.status == 2
    assert f"{config}:22:22: mesh.components.left_z.kernel: `kernel: pallas` cannot run" in ran.err
    assert "train.trainable.0: no parameter has this path" in ran.err
    assert "2 problems found" in ran.err


def test_check_for_a_topology(command: Any) -> None:
    given = ("--set", "mesh.components={left: {kernel: pallas}}", "--set", "encoders.left.width=16")
    assert command("check", PAIR, *given).status == 0  # there are GPUs
    assert command("check", PAIR, *given, "--topology", "h100:1").status == 0
    ran = command("check", PAIR, *given, "--topology", "v5e:2x2")
    assert ran.status == 2
    assert "attention: heads of 8 do not divide by 16" in ran.err


@pytest.mark.parametrize("own", ["kernel=pallas", "components={left: {kernel: pallas}}"])
def test_train_refuses_before_there_is_a_folder(command: Any, tmp_path: Path, own: str) -> None:
    ran = command("train", PAIR, "--set", f"mesh.{own}", "--runs", tmp_path / "runs")
    assert ran.status == 2
    assert "attention: there are no kernels for CPUs" in ran.err
    assert f"--set mesh.{own}: mesh." in ran.err
    assert not (tmp_path / "runs").exists()


def test_a_run_tells_what_ran(command: Any, tmp_path: Path) -> None:
    ran = command("train", PAIR, "--runs", tmp_path, "--quiet")
    assert ran.status == 0, ran.err
    (folder,) = (tmp_path / "pair").iterdir()
    kernels = json.loads((folder / "summary.json").read_text("utf-8"))["kernels"]
    assert [(one["component"], one["backend"]) for one in kernels] == [
        ("left", "xla"),
        ("losses.align", "xla"),
    ]
    page = (folder / "report.html").read_text("utf-8")
    assert (
        "<td>left</td><td>attention</td><td>xla</td><td>there are no kernels for CPUs</td>" in page
    )

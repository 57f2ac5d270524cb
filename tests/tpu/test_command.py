"""`fusekit launch`: what it checks, makes, says and refuses."""

from pathlib import Path

import pytest

from fusekit.cli.main import run
from fusekit.config import loads
from fusekit_tpu.launch import TARGETS

CONFIG = """version: 1
meta: {title: Two sides}
modalities:
  left: {type: features, width: 4}
  right: {type: features, width: 4}
  class: {type: label, classes: 3}
encoders:
  left: {type: mlp, width: 8}
  right: {type: mlp, width: 8}
fusion:
  joint: {type: concat, inputs: [left, right]}
heads:
  class: {type: classifier, input: joint, classes: 3}
losses:
  class: {type: cross_entropy, prediction: class, target: batch.class}
train: {batch: 512, steps: 10}
mesh: {data: -1, fsdp: 16}
"""
GKE = ("--target", "gke", "--image", "registry/fusekit:1", "--runs", "gs://bucket/runs")
POD = ("--topology", "v5e:16x16")


@pytest.fixture
def launch(tmp_path, capsys, monkeypatch):
    """Runs `fusekit launch` on a config; its status, output and errors."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(tmp_path)
    Path("two_sides.yaml").write_text(CONFIG)

    def go(*words):
        status = run(["launch", "two_sides.yaml", *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return go


def test_files_into_a_folder(launch):
    status, out, err = launch(*GKE, *POD, "--dry-run", "-o", "made")
    assert (status, err) == (0, "")
    assert out == "made made/jobset.yaml; to submit:\n    kubectl apply -f made/jobset.yaml\n"
    text = Path("made/jobset.yaml").read_text()
    assert "name: two-sides-files" in text
    assert 'train "$here/config.yaml" --set mesh.data=16 --set mesh.fsdp=16' in text
    assert launch(*GKE, *POD, "--dry-run", "-o", "made")[0] == 0


def test_a_program_that_offloads_gets_the_flags_for_it(launch):
    config = CONFIG.replace(
        "left: {type: features, width: 4}", "left: {type: tokens, vocab: 9, length: 3}"
    )
    stack = "left: {type: transformer, depth: 1, width: 8, heads: 2}"
    config = config.replace("left: {type: mlp, width: 8}", stack)
    Path("two_sides.yaml").write_text(config.replace("[left,", "[left.mean,"))
    words = (*GKE, "--topology", "v6e:4x4", "--dry-run")
    plain, offloads = (
        launch(*words, "--set", f"mesh.remat={remat}")[1] for remat in ("names", "offload")
    )
    assert "xla_tpu_host_transfer_overlap_limit" not in plain
    assert "xla_tpu_host_transfer_overlap_limit" in offloads


def test_files_to_the_screen_hold_the_whole_experiment(launch):
    status, out, _ = launch(
        *("--target", "container", "--runs", "/runs", "--topology", "v5e:4x4", "--dry-run"),
        *("--set", "train.learning_rate=1e-4", "--name", "mine"),
    )
    assert status == 0
    shown = out.split("==> ")[1:]
    assert [part.partition(" ")[0] for part in shown] == [
        "Containerfile",
        "config.yaml",
        "start.sh",
    ]
    experiment = loads(shown[1].partition("<==\n")[2], "shown").experiment
    assert experiment.train.learning_rate == 1e-4
    assert experiment.mesh.fsdp == 16
    assert "--set mesh.data=1 --set mesh.fsdp=16 --name mine --runs /runs" in shown[2]


def test_without_dry_run_it_says_what_to_run_and_makes_nothing(launch):
    status, out, err = launch(*GKE, *POD, "-o", "made")
    assert (status, out) == (2, "")
    assert err == (
        "fusekit submits nothing: make the files with --dry-run, look at them, then run\n"
        "    kubectl apply -f made/jobset.yaml\n"
    )
    assert not Path("made").exists()


def test_a_mesh_of_another_size_is_refused(launch):
    sets = ("--set", "mesh.data=8")
    assert launch(*GKE, *POD, *sets, "--dry-run")[2] == (
        "mesh: the mesh is not of the size of v5e:16x16\n"
        "    found: data 8 x fsdp 16: 128 devices\n"
        "    expected: 256 devices; --set mesh.data=-1 takes what is left\n"
        "1 problem found\n"
    )
    status, _, err = launch(*GKE, *POD, "--set", "mesh.fsdp=3", "--dry-run")
    assert status == 2
    assert "found: data the rest x fsdp 3: a multiple of 3 devices" in err
    one = ("--set", "mesh.data=1", "--set", "mesh.fsdp=1", "--dry-run")
    assert "found: 1: 1 device\n" in launch(*GKE, *POD, *one)[2]


def test_two_devices_a_chip_count_twice(launch):
    assert launch(*GKE, "--topology", "7x:4x4x4", "--set", "mesh.data=8", "--dry-run")[0] == 0


def test_a_batch_that_cannot_be_shared_is_refused(launch):
    batch = ("--set", "train.batch=384", "--dry-run")
    assert launch(*GKE, *POD, *batch)[2] == (
        "train.batch: the batch does not divide over 256 parts of the mesh\n"
        "    found: 384\n    expected: a multiple of 256\n1 problem found\n"
    )
    across = ("--set", "mesh.fsdp=1", "--set", "mesh.tensor=8", "--dry-run")
    assert launch(*GKE, *POD, *across)[0] == 0


def test_the_axis_that_crosses_slices_is_a_multiple_of_them(launch):
    two = ("--slices", "2", "--dry-run")
    assert launch(*GKE, *POD, *two)[::2] == (0, "")
    alone = ("--set", "mesh.data=1", "--set", "mesh.fsdp=512")
    assert launch(*GKE, *POD, *two, *alone)[2] == (
        "mesh.data: the axis data crosses 2 slices, which do not divide it\n    found: 1\n"
        "    expected: a multiple of 2; mesh.slices names the axis that crosses\n"
        "1 problem found\n"
    )
    assert launch(*GKE, *POD, *two, *alone, "--set", "mesh.slices=fsdp")[::2] == (0, "")


def test_the_config_is_checked_first(launch):
    status, _, err = launch(*GKE, *POD, "--set", "heads.class.input=joind", "--dry-run")
    assert status == 2
    assert "heads.class.input: nothing is called joind" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--target", "slrm", "--topology", "v5e:4x4"),
            "there is no such target\n    found: slrm\n"
            f"    expected: {', '.join(TARGETS)}\n    did you mean: slurm\n",
        ),
        (
            ("--target", "gke", "--topology", "v5e:4x4"),
            "--runs says where runs lie: gs://BUCKET/FOLDER, pvc://CLAIM or a path\n",
        ),
        (
            (*GKE, *POD, "--name", "Two_Sides", "--dry-run"),
            "a job cannot be called 'Two_Sides': --name is a letter, then at most 39 small"
            " letters, digits and hyphens\n",
        ),
        (
            (*GKE, *POD, "--name", "", "--dry-run"),
            "a job cannot be called '': --name is a letter, then at most 39 small"
            " letters, digits and hyphens\n",
        ),
        ((*GKE, *POD, "--cluster", "c", "--dry-run"), "target gke takes no --cluster\n"),
    ],
)
def test_refusals(launch, words, message):
    status, out, err = launch(*words)
    assert (status, out, err) == (2, "", message)


def test_a_file_of_the_user_is_not_overwritten(launch):
    Path("config.yaml").write_text("mine: true\n")
    status, _, err = launch(
        *("--target", "container", "--runs", "/runs", *POD, "--dry-run", "-o", ".")
    )
    assert status == 2
    assert err == "config.yaml exists and says something else: give another folder\n"
    assert Path("config.yaml").read_text() == "mine: true\n"
    assert not Path("Containerfile").exists()


DATA = "data:\n  here: {type: table, path: rows.csv, provides: {left: left}}\n"


def test_relative_paths_of_data(launch, tmp_path):
    """Slurm's machines have them where they are; a container does not."""
    Path("two_sides.yaml").write_text(CONFIG + DATA)
    status, out, err = launch(
        *("--target", "slurm", "--topology", "h200:8x2", "--runs", "/runs", "--dry-run")
    )
    assert (status, err) == (0, "")
    assert f"path: {tmp_path}/rows.csv" in out
    with pytest.warns(UserWarning, match="looked for in the container's folder"):
        launch(*GKE, *POD, "--dry-run")

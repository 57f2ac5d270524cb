"""The script that starts: which run it goes on with, and what it hands over."""

import os

import pytest

from fusekit_tpu.launch.script import start
from tests.tpu.jobs import CONFIG, bash, job

SHOW = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\necho "flags $LIBTPU_INIT_ARGS"\n'


@pytest.fixture
def pod(tmp_path):
    """A folder of runs, and a way to run the script with a `fusekit` that shows its words."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("fusekit", "python"):
        (binaries / name).write_text(SHOW)
        (binaries / name).chmod(0o755)
    home = tmp_path / "home folder"
    home.mkdir()
    runs = tmp_path / "my runs"
    runs.mkdir()

    def go(*, text="v5e:2x2"):
        made = job(text, runs=str(runs), mesh={"data": 4})
        (home / "start.sh").write_text(start(made))
        (home / "config.yaml").write_text(CONFIG)
        environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
        done = bash("", str(home / "start.sh"), environment=environment)
        *words, flags = done.stdout.splitlines()
        return words, flags

    go.runs, go.home = runs, home
    return go


def sealed(folder, step):
    (folder / str(step)).mkdir(parents=True)
    (folder / str(step) / "digests.json").write_text("{}")


def test_it_begins_where_there_is_no_run(pod):
    words, flags = pod()
    assert words == [
        *("train", f"{pod.home}/config.yaml", "--set", "mesh.data=4"),
        *("--name", "digits", "--runs", str(pod.runs)),
    ]
    assert flags.startswith("flags --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla")


def test_it_goes_on_with_the_newest_run_that_has_a_sealed_checkpoint(pod):
    root = pod.runs / "digits"
    sealed(root / "2026-01-01T00-00-00Z" / "checkpoints", 5)
    sealed(root / "2026-02-01T00-00-00Z" / "stages" / "first" / "checkpoints", 5)
    sealed(root / "2026-01-15T00-00-00Z" / "checkpoints", 900)
    (root / "2026-03-01T00-00-00Z" / "checkpoints" / "7").mkdir(parents=True)  # not sealed
    sealed(root / "2026-04-01T00-00-00Z" / "best", 9)  # no state to go on from
    sealed(pod.runs / "other" / "2027-01-01T00-00-00Z" / "checkpoints", 5)
    assert pod()[0][-2:] == ["--resume", str(root / "2026-02-01T00-00-00Z")]


def test_a_run_without_a_sealed_checkpoint_is_left_alone(pod):
    (pod.runs / "digits" / "2026-01-01T00-00-00Z").mkdir(parents=True)
    assert "--resume" not in pod()[0]


def test_signals_and_the_exit_status_are_those_of_fusekit(pod):
    """The script becomes `fusekit`: nothing stands between it and SIGTERM."""
    pod()
    assert (pod.home / "start.sh").read_text().rstrip().endswith('exec "${command[@]}"')

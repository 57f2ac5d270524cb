"""A host that is lost ends the others, soon and with its name; the run goes on with those left."""

import json
import signal
import time

import pytest

from fusekit.train.checkpoint import Checkpoints
from fusekit.train.report import read_metrics
from tests.hosts import resumed
from tests.hosts.group import Group, succeeded
from tests.hosts.measure import CONFIG

pytestmark = pytest.mark.slow

BOUND = 60
LONG = ("mesh.data=-1", "train.batch=6", "train.steps=100000", "train.checkpoint_every=10")


def training(tmp_path, hosts, more=(), **options):
    sets = [word for each in LONG for word in ("--set", each)]
    command = ("-m", "fusekit", "train", CONFIG, "--name", "run", *sets, *more)
    return Group(tmp_path, *command, hosts=hosts, **options)


def trained_to(group, step):
    """The folder of the run, once it has a checkpoint."""
    group.until(group.folder / "runs" / "run")
    (folder,) = (group.folder / "runs" / "run").iterdir()
    group.until(folder / "checkpoints" / str(step) / "digests.json")
    return folder


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_host_ends_the_others(tmp_path, victim):
    with training(tmp_path, 3) as group:
        folder = trained_to(group, 20)
        group.processes[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        ended = group.wait(BOUND)
        assert time.monotonic() - killed < BOUND
    for host, each in enumerate(ended):
        if host != victim:
            assert each.status == 75, each.err
            assert f"host {victim} of 3 (" in each.err
            assert "was lost: its process ended" in each.err
            assert f"this host, {host}, stops as well; --resume goes on" in each.err
            assert "Traceback" not in each.err
    assert ended[victim].status == -signal.SIGKILL
    assert any(not wrong for wrong in Checkpoints(folder / "checkpoints").verify().values())


def test_a_host_that_hangs_ends_the_others(tmp_path):
    with training(tmp_path, 2, FUSEKIT_HOSTS_SILENCE="8") as group:
        trained_to(group, 10)
        group.processes[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        group.processes[0].wait(BOUND)
        assert time.monotonic() - began < BOUND
    status, _, err = group.processes[0].returncode, *group.told(0)
    assert status == 75, err
    assert "host 1 of 2 (" in err
    assert "was lost: no sign of life for" in err


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_host_stops_all_after_a_checkpoint(tmp_path, first):
    with training(tmp_path, 2) as group:
        folder = trained_to(group, 10)
        group.processes[1].send_signal(first)
        ended = group.wait(BOUND)
    for each in ended:
        assert each.status == 128 + signal.SIGTERM, each.err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped (SIGTERM)"
    assert Checkpoints(folder / "checkpoints").newest() == summary["steps"]
    assert "fusekit train --resume" in ended[0].err
    assert "--resume" not in ended[1].err


def test_steps_in_flight_do_not_hang_with_several_devices_a_host(tmp_path):
    steps = ("--set", "train.steps=300", "--set", "train.batch=8")
    with training(tmp_path, 2, devices=2, more=steps) as group:
        succeeded(group.wait(300))


def rows(folder, hosts):
    """By step: digests of the rows that all hosts read, by number."""
    found = {}
    for host in range(hosts):
        for line in (folder / f"rows-{host}.jsonl").read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["step"], {}).update(entry["rows"])
    return found


def ran(folder, hosts, *arguments):
    with Group(folder, resumed.__file__, *arguments, hosts=hosts) as group:
        return group.wait()


@pytest.mark.parametrize("left", [2, 1])
def test_a_run_goes_on_with_fewer_hosts_as_if_nothing_had_happened(tmp_path, left):
    alone, before, after = (tmp_path / name for name in ("alone", "before", "after"))
    succeeded(ran(alone, 1, alone, "", -1, -1))
    ended = ran(before, 4, before, "", 2, 7)
    assert [each.status for each in ended] == [75, 75, -signal.SIGKILL, 75]
    (folder,) = (before / "run").iterdir()
    assert Checkpoints(folder / "checkpoints").newest() == 4
    succeeded(ran(after, left, before, folder, -1, -1))

    due, seen = rows(alone, 1), rows(after, left)
    assert sorted(seen) == list(range(5, 13))
    assert all(len(each) == 8 for each in due.values())
    assert seen == {step: due[step] for step in seen}
    assert {s: r for s, r in rows(before, 4).items() if s < 7} == {s: due[s] for s in range(1, 7)}

    (whole,) = (alone / "run").iterdir()
    for one, other in zip(read_metrics(whole), read_metrics(folder), strict=True):
        assert (one["step"], one["split"]) == (other["step"], other["split"])
        for name, value in one["values"].items():
            assert other["values"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name

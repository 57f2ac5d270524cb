"""The watch: who is lost, fails or stays silent ends the others, and with its name."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from fusekit.hosts.line import Line
from fusekit.hosts.place import Place
from fusekit.hosts.watch import Watch

NAMES = {0: "a", 1: "b", 2: "c"}


@pytest.fixture
def three():
    """The watches of three hosts, what ended each, and the sockets of the other two."""
    watches, ended, sockets = [], [[], [], []], []

    def make(silence=60.0, hosts=(0, 1, 2)):
        pairs = [tuple(map(Line, socket.socketpair())) for _ in range(2)]
        for pair in pairs:
            sockets.extend(pair)
        lines = [{1: pairs[0][0], 2: pairs[1][0]}, {0: pairs[0][1]}, {0: pairs[1][1]}]
        for k in hosts:
            place = Place(("a", 1), 3, k, silence=silence)
            watches.append(Watch(place, lines[k], NAMES, partial(noted, ended[k])))
        return watches, ended, [pair[1] for pair in pairs]

    yield make
    for line in sockets:
        gone(line)
    for watch in watches:
        watch._thread.join(5)
    for line in sockets:
        line.close()


def noted(ended, text, status):
    ended.append(f"{text} [{status}]")


def gone(line):
    """As where its process is killed: the machine closes its connections."""
    with contextlib.suppress(OSError):
        line.connection.shutdown(socket.SHUT_RDWR)


def soon(found, seconds=5.0):
    until = time.monotonic() + seconds
    while not found and time.monotonic() < until:
        time.sleep(0.01)
    return next(iter(found), "")


def test_a_lost_host_ends_all_others(three):
    _, ended, lines = three()
    gone(lines[0])
    for k in (0, 2):
        assert soon(ended[k]).startswith("host 1 of 3 (b) was lost: its process ended")
    assert "this host, 2, stops as well; --resume goes on" in ended[2][0]
    assert ended[2][0].endswith("[75]")


def test_a_lost_first_host_ends_all_others(three):
    _, ended, lines = three(hosts=(1, 2))
    for line in lines:
        gone(line)
    for k in (1, 2):
        assert soon(ended[k]).startswith("host 0 of 3 (a) was lost: its process ended")


def test_a_host_that_fails_says_why(three):
    watches, ended, _ = three()
    watches[2].failed("row 3 has no label", 2)
    for k in (0, 1):
        due = "host 2 of 3 (c) failed: row 3 has no label\n    this host, {}, stops as well [2]"
        assert soon(ended[k]) == due.format(k)
    assert not ended[2]


def test_a_first_host_that_fails_says_why(three):
    watches, ended, lines = three()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(watches[0].failed, "the disk is full", 1)
        told = [soon(ended[k]) for k in (1, 2)]
        for line in lines:
            gone(line)
    assert all(text.startswith("host 0 of 3 (a) failed: the disk is full") for text in told)
    assert all(text.endswith("[75]") for text in told)
    assert not ended[0]


def test_a_host_that_is_done_may_go(three):
    watches, ended, lines = three()
    watches[1].done()
    soon(watches[0]._done)
    gone(lines[0])
    time.sleep(0.3)
    assert ended == [[], [], []]
    gone(lines[1])
    assert "host 2 of 3" in soon(ended[0])


def test_silence_counts_as_loss():
    mute, other = socket.socketpair()
    ended = []
    began = time.monotonic()
    Watch(Place(("a", 1), 2, 1, silence=1.0), {0: Line(other)}, NAMES, partial(noted, ended))
    assert soon(ended).startswith("host 0 of 2 (a) was lost: no sign of life for 1 s")
    assert 1.0 < time.monotonic() - began < 5.0
    mute.close()
    other.close()


def test_signs_of_life_keep_a_host(three, monkeypatch):
    monkeypatch.setattr("fusekit.hosts.watch.PING", 0.2)
    _, ended, _ = three(silence=1.0)
    time.sleep(1.6)
    assert ended == [[], [], []]

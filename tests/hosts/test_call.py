"""The roll call: all come together, or each learns why not, in the time that was given."""

import re
import socket
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from fusekit.hosts import call as calling
from fusekit.hosts import door, hello
from fusekit.hosts.call import call
from fusekit.hosts.line import Line
from fusekit.hosts.place import HostsError, Place
from tests.hosts.group import free_ports


@pytest.fixture
def start():
    """Starts a call in a thread; lines are closed in the end."""
    calls = []

    with ThreadPoolExecutor(4) as pool:

        def go(place):
            calls.append(pool.submit(call, place))
            return calls[-1]

        yield go
    for each in calls:
        if each.exception() is None:
            for line in each.result()[0].values():
                line.close()


def places(*processes, count=3, wait=20.0):
    port = free_ports()
    return [Place(("127.0.0.1", port), count, k, wait=wait) for k in processes]


def test_all_come_together(start):
    given = places(0, 1, 2)
    first, *others = [each.result() for each in [start(place) for place in given]]
    lines, names, port = first
    assert sorted(lines) == [1, 2]
    assert names == dict.fromkeys(range(3), socket.gethostname())
    assert port == given[0].coordinator[1] + 1
    for found in others:
        assert sorted(found[0]) == [0]
        assert found[1:] == (names, port)
    assert lines[2].send(word="two")
    assert others[1][0][0].receive() == [{"word": "two"}]


def test_who_does_not_come_is_named_to_all_who_did(start):
    began = time.monotonic()
    first, other = map(start, places(0, 1, count=4, wait=2.0))
    missing = r"2 of 4 processes did not come within 2 s: 2, 3"
    with pytest.raises(HostsError, match=missing):
        first.result()
    with pytest.raises(HostsError, match=f"^the coordinator .* refuses: {missing}"):
        other.result()
    assert time.monotonic() - began < 10


def test_a_coordinator_that_is_not_there():
    (place,) = places(1, wait=0.3)
    began = time.monotonic()
    with pytest.raises(HostsError) as caught:
        call(place)
    assert time.monotonic() - began < 10
    told = r"the coordinator 127\.0\.0\.1:\d+ cannot be reached: 0\.3 s, Connection refused\n"
    assert re.match(told, str(caught.value))


def test_a_name_that_nobody_has():
    with pytest.raises(HostsError, match=r"the coordinator no-such-host.invalid:90 cannot be"):
        call(Place(("no-such-host.invalid", 90), 2, 1, wait=0.3))


def test_a_port_that_is_taken():
    (place,) = places(0)
    message = r"the coordinator cannot listen on port \d+: Address already in"
    with door.listening(place.coordinator[1]), pytest.raises(HostsError, match=message):
        call(place)


def test_whoever_was_told_of_other_numbers_is_refused(start):
    first, one, two = places(0, 1, 2)
    waiting = start(first)
    message = "refuses: the first host was told of 3 processes, this one of 2"
    with pytest.raises(HostsError, match=message):
        call(Place(one.coordinator, 2, 1))
    start(one), start(two)
    assert sorted(waiting.result()[0]) == [1, 2]


def test_a_number_that_comes_twice_is_refused(start):
    first, one, two = places(0, 1, 2)
    waiting = start(first)
    done, open_ = wait([start(one), start(one)], return_when=FIRST_COMPLETED)
    (refused,), (other,) = done, open_
    with pytest.raises(HostsError, match=r"refuses: process 1 is there already, on \S+"):
        refused.result()
    start(two)
    assert sorted(waiting.result()[0]) == [1, 2]
    assert sorted(other.result()[0]) == [0]


def test_whoever_has_other_versions_is_refused(start, monkeypatch):
    first, one = places(0, 1, count=2)
    own = hello.hello
    waiting = start(first)
    with monkeypatch.context() as patch:
        patch.setattr(calling, "hello", lambda place: own(place) | {"versions": {"jax": "0.1"}})
        message = r"refuses: the first host has fusekit \S+, jax \S+.*, this one jax 0\.1"
        with pytest.raises(HostsError, match=message):
            call(one)
    start(one)
    assert sorted(waiting.result()[0]) == [1]


def test_whoever_ends_while_others_are_awaited_may_come_again(start):
    first, one, two = places(0, 1, 2)
    waiting = start(first)
    line = reached(first)
    line.send(**hello.hello(one))
    line.close()
    start(one), start(two)
    assert sorted(waiting.result()[0]) == [1, 2]


def test_strangers_do_not_disturb(start):
    first, one = places(0, 1, count=2)
    waiting = start(first)
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\n", b"[]\n", b"{}\n", b""):
        stranger = reached(first)
        stranger.connection.sendall(text)
        stranger.close()
    start(one)
    assert sorted(waiting.result()[0]) == [1]


def reached(place):
    """A connection to the first host, once it listens."""
    while True:
        try:
            return Line(socket.create_connection(place.coordinator))
        except OSError:
            time.sleep(0.01)

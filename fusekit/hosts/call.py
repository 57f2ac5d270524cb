"""The roll call: every host comes to the first, or all learn who did not.

JAX has one of its own, but ends the process from C++ where someone is missing, a port is taken or
a name is wrong. So hosts meet here before JAX is started, and the connections stay, for the watch.
"""

import selectors
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fusekit.hosts.line import Line
from fusekit.hosts.place import WAIT, HostsError, Place

RETRY = 0.3
"""Seconds between attempts to reach the coordinator."""


def call(place: Place) -> tuple[dict[int, Line], dict[int, str], int]:
    """Brings the hosts together.

    Returns:
      Lines by process, from the first to all others or from another to the first; names of the
      machines; the port for JAX.

    Raises:
      HostsError: not all came in time, or they were told different things.
    """
    return _gather(place) if place.process == 0 else _go(place)


def _hello(place: Place) -> dict[str, Any]:
    return {
        "hello": place.process,
        "of": place.processes,
        "name": socket.gethostname(),
        "versions": {name: _version(name) for name in ("fusekit", "jax", "jaxlib")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


# -- the first host ----------------------------------------------------------------------------


def _gather(place: Place) -> tuple[dict[int, Line], dict[int, str], int]:
    port = place.coordinator[1]
    present = _Present(place)
    until = time.monotonic() + place.wait
    with _listening(port) as door, selectors.DefaultSelector() as selector:
        selector.register(door, selectors.EVENT_READ)
        try:
            while present.missing():
                left = until - time.monotonic()
                if left <= 0:
                    raise present.incomplete()
                for key, _ in selector.select(min(left, 1.0)):
                    if isinstance(key.fileobj, Line):
                        if not present.heard(key.fileobj):
                            selector.unregister(key.fileobj)
                            key.fileobj.close()
                    else:
                        selector.register(Line(door.accept()[0]), selectors.EVENT_READ)
            free = _free(port + 1)
        finally:
            kept = [] if present.missing() else list(present.lines.values())
            for key in list(selector.get_map().values()):
                if isinstance(key.fileobj, Line) and key.fileobj not in kept:
                    key.fileobj.close()
    for line in present.lines.values():
        line.send(welcome=free, names={str(k): name for k, name in present.names.items()})
    return present.lines, present.names, free


class _Present:
    """Who has come to the first host."""

    def __init__(self, place: Place):
        self.place, self.own = place, _hello(place)
        self.lines: dict[int, Line] = {}
        self.names: dict[int, str] = {0: self.own["name"]}

    def missing(self) -> list[int]:
        return [k for k in range(1, self.place.processes) if k not in self.lines]

    def heard(self, line: Line) -> bool:
        """Takes in what came over a line; whether it goes on."""
        messages = line.receive()
        if messages is None:
            self.lines = {k: each for k, each in self.lines.items() if each is not line}
            return False
        for message in messages:
            process, wrong = message.get("hello"), self._wrong(message)
            if wrong is not None or not isinstance(process, int):
                line.send(refused=wrong)
                return False
            self.lines[process], self.names[process] = line, str(message.get("name"))
        return True

    def _wrong(self, message: dict[str, Any]) -> str | None:
        """Why this run has no place for a process."""
        process, count = message.get("hello"), self.place.processes
        if not isinstance(process, int) or message.get("of") != count:
            return f"the first host was told of {count} processes, this one of {message.get('of')}"
        if not 0 < process < count or process in self.lines:
            where = self.names.get(process, self.own["name"])
            return f"process {process} is there already, on {where}"
        if message.get("versions") != self.own["versions"]:
            return f"the first host has {_told(self.own)}, this one {_told(message)}"
        return None

    def incomplete(self) -> HostsError:
        """Who did not come; those who did are told so as well."""
        missing, wait = self.missing(), self.place.wait
        shown = ", ".join(map(str, missing[:10])) + (" and others" if len(missing) > 10 else "")
        text = (
            f"{len(missing)} of {self.place.processes} processes did not come within {wait:g} s:"
            f" {shown}"
        )
        for line in self.lines.values():
            line.send(refused=text)
        return HostsError(
            f"{text}\n    expected: all are started with the same command; {_longer()}"
        )


def _told(hello: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in dict(hello["versions"]).items())


def _longer() -> str:
    return f"{WAIT}=SECONDS waits longer"


def _listening(port: int) -> socket.socket:
    """A socket on every address of this machine. Raises `HostsError` if the port is taken."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)
    except OSError as error:
        raise HostsError(
            f"the coordinator cannot listen on port {port}: {error.strerror or error}\n"
            "    expected: a port that is free on the first host, the same for all hosts;"
            " is another run there?"
        ) from error


def _free(port: int) -> int:
    """This port if it is free; otherwise one that is."""
    for tried in (port, 0):
        try:
            with socket.create_server(("", tried)) as found:
                return int(found.getsockname()[1])
        except OSError:
            continue
    raise HostsError(f"there is no free port beside {port - 1}")


# -- the others --------------------------------------------------------------------------------


def _go(place: Place) -> tuple[dict[int, Line], dict[int, str], int]:
    until = time.monotonic() + place.wait
    where, why = "{}:{}".format(*place.coordinator), "no answer"
    while (left := until - time.monotonic()) > 0:
        try:
            line = Line(socket.create_connection(place.coordinator, timeout=min(left, 5.0)))
        except OSError as error:
            why = error.strerror or str(error)
            time.sleep(min(RETRY, left))
            continue
        line.send(**_hello(place))
        answer = _answer(line, until + 10.0)
        if answer is not None and "welcome" in answer:
            names = {int(k): str(name) for k, name in dict(answer["names"]).items()}
            return {0: line}, names, int(answer["welcome"])
        line.close()
        if answer is not None:
            raise HostsError(f"the coordinator {where} refuses: {answer.get('refused')}")
        why = "it answers, but does not bring the hosts together"
        time.sleep(RETRY)
    raise HostsError(
        f"the coordinator {where} cannot be reached: {place.wait:g} s, {why}\n"
        "    expected: process 0 runs there with the same --coordinator, and lets hosts in on"
        f" this port; {_longer()}"
    )


def _answer(line: Line, until: float) -> dict[str, Any] | None:
    """The first message of the coordinator; None if it goes away or stays silent."""
    while time.monotonic() < until:
        messages = line.receive()
        if messages is None:
            return None
        if messages:
            return messages[0]
    return None

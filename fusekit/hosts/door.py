"""The first host's part in the roll call: it lets in whoever belongs to the run."""

import selectors
import socket
import time
from typing import Any

from fusekit.hosts.hello import LONGER, hello, told
from fusekit.hosts.line import Line
from fusekit.hosts.place import HostsError, Place


def gather(place: Place) -> tuple[dict[int, Line], dict[int, str], int]:
    """Waits for all others; returns as `fusekit.hosts.call.call`. Raises `HostsError`."""
    port = place.coordinator[1]
    present = _Present(place)
    until = time.monotonic() + place.wait
    with listening(port) as door, selectors.DefaultSelector() as selector:
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
        self.place, self.own = place, hello(place)
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
            return f"the first host has {told(self.own)}, this one {told(message)}"
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
        return HostsError(f"{text}\n    expected: all are started with the same command; {LONGER}")


def listening(port: int) -> socket.socket:
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

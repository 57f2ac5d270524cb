"""The roll call: every host comes to the first, or all learn who did not.

JAX has one of its own, but ends the process from C++ where someone is missing, a port is taken or
a name is wrong. So hosts meet here before JAX is started, and the connections stay, for the watch.
"""

import socket
import time
from typing import Any

from fusekit.hosts.door import gather
from fusekit.hosts.hello import LONGER, hello
from fusekit.hosts.line import Line
from fusekit.hosts.place import HostsError, Place

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
    return gather(place) if place.process == 0 else _go(place)


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
        line.send(**hello(place))
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
        f" this port; {LONGER}"
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

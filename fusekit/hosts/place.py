"""Where a process stands among those of its run: said explicitly, or found in the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fusekit.errors import FusekitError

COORDINATOR = ("FUSEKIT_COORDINATOR", "JAX_COORDINATOR_ADDRESS")
PROCESSES = ("FUSEKIT_PROCESSES", "JAX_NUM_PROCESSES")
PROCESS = ("FUSEKIT_PROCESS", "JAX_PROCESS_ID")
WAIT, SILENCE = "FUSEKIT_HOSTS_WAIT", "FUSEKIT_HOSTS_SILENCE"


class HostsError(FusekitError):
    """The hosts of a run cannot find each other, or were told different things."""


@dataclass(frozen=True)
class Place:
    """One process of several.

    Args:
      coordinator: host and port where process 0 answers; the port after it is JAX's own.
      processes: how many there are.
      process: which this is, from 0.
      device: the only local device that this process may use; None: all.
      wait: seconds in which all must have come.
      silence: seconds without a sign of life after which a host counts as lost.
    """

    coordinator: tuple[str, int]
    processes: int
    process: int
    device: int | None = None
    wait: float = 300.0
    silence: float = 30.0


@dataclass(frozen=True)
class Found:
    """What an environment says; None where it is silent.

    Args:
      by: what is called so in messages.
    """

    by: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    device: int | None = None


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Place | None:
    """The place of this process; None where it is the only one.

    What is given goes first, then `FUSEKIT_COORDINATOR`, `FUSEKIT_PROCESSES` and
    `FUSEKIT_PROCESS`, then `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`,
    then what SLURM, Open MPI, Kubernetes or a TPU pod says.

    Raises:
      HostsError: more than one process is meant, and something is lacking or impossible.
    """
    coordinator = coordinator or _said(environ, COORDINATOR)[1]
    processes = _number(environ, PROCESSES) if processes is None else processes
    process = _number(environ, PROCESS) if process is None else process
    if processes == 1 and not process:
        return None
    known = Found("the environment", coordinator, processes, process)
    if None in (coordinator, processes, process):
        from fusekit.hosts.schedulers import found

        known = _over(known, found(environ, processes))
    if known.processes is None and known.coordinator is None and known.process is None:
        return None
    place = _checked(known)
    wait, silence = _seconds(environ, WAIT), _seconds(environ, SILENCE)
    return replace(place, wait=wait or place.wait, silence=silence or place.silence)


def _over(said: Found, found: Found | None) -> Found:
    """What was said, and where it is silent what was found."""
    if found is None:
        return said
    return Found(
        found.by,
        said.coordinator or found.coordinator,
        found.processes if said.processes is None else said.processes,
        found.process if said.process is None else said.process,
        found.device,
    )


def _checked(known: Found) -> Place:
    lacking = [
        option
        for option, value in (
            ("--coordinator HOST:PORT", known.coordinator),
            ("--processes N", known.processes),
            ("--process K", known.process),
        )
        if value is None
    ]
    if lacking:
        raise HostsError(
            f"more than one process is meant, but {known.by} does not say all:"
            f" give {' and '.join(lacking)}"
        )
    assert known.coordinator is not None
    assert known.processes is not None
    assert known.process is not None
    if known.processes < 1 or not 0 <= known.process < known.processes:
        raise HostsError(
            f"process {known.process} of {known.processes} cannot be: they count from 0"
        )
    host, _, port = known.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise HostsError(
            f"the coordinator {known.coordinator!r} is no HOST:PORT, such as node-0:8476"
        )
    return Place((host.strip("[]"), int(port)), known.processes, known.process, known.device)


def _said(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str | None]:
    """The first of some variables that is set, and its text."""
    for name in names:
        if text := environ.get(name):
            return name, text
    return names[0], None


def _number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    name, text = _said(environ, names)
    if text is None:
        return None
    if not text.isdigit():
        raise HostsError(f"{name}={text} is no whole number")
    return int(text)


def _seconds(environ: Mapping[str, str], name: str) -> float | None:
    text = environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e6:
        raise HostsError(f"{name}={text} is no number of seconds from 1 on")
    return value

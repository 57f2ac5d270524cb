"""Joining the hosts of a run, and leaving them."""

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fusekit.errors import FusekitError
from fusekit.hosts.place import HostsError, Place, find
from fusekit.status import status_of

SHUTDOWN = 60
"""Seconds in which all hosts must have done what there was to do after the first has."""
TWICE = 2
"""JAX sends a sign of life each half of the time that it waits for one, and may find a host lost
after half of it: twice as long, it is never before us."""
SHORT, LONG = 1.0, 5.0
"""Seconds until the loss of another host, which an error may come from, is known."""


@contextmanager
def joined(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Iterator[Place | None]:
    """Joins the other hosts, if there are any, for as long as it is entered.

    What is not given is found; see `fusekit.hosts.place.find`. Nothing may have used a device
    before. An error that leaves the block ends the other hosts too. A host that is lost ends this
    one, at once, with a message that names it, and with status 75: to be tried again.

    Where `jax.distributed` runs already nothing is done, and nobody watches but JAX.

    Raises:
      HostsError: the hosts cannot find each other.
    """
    import jax

    place = find(coordinator, processes, process)
    if place is None or place.processes == 1 or jax.distributed.is_initialized():
        yield None
        return
    from fusekit.hosts.call import call
    from fusekit.hosts.watch import Watch

    lines, names, port = call(place)
    watch = Watch(place, lines, names)
    try:
        _initialize(place, port)
        yield place
    except BaseException as error:
        time.sleep(LONG if _distant(error) else SHORT)
        watch.failed(_line(error), status_of(error))
        # others cannot come to JAX's own farewell, which would wait for them
        atexit.register(_leave, status_of(error))
        raise
    watch.done()
    jax.distributed.shutdown()


def _initialize(place: Place, port: int) -> None:
    import jax

    host = f"[{place.coordinator[0]}]" if ":" in place.coordinator[0] else place.coordinator[0]
    jax.distributed.initialize(
        f"{host}:{port}",
        place.processes,
        place.process,
        local_device_ids=None if place.device is None else [place.device],
        cluster_detection_method="deactivate",
        initialization_timeout=int(place.wait),
        heartbeat_timeout_seconds=TWICE * int(place.silence + 3),
        shutdown_timeout_seconds=SHUTDOWN,
    )
    if jax.process_count() != place.processes:
        raise HostsError(
            f"{jax.default_backend()} devices have {jax.process_count()} processes, not"
            f" {place.processes}: this platform does not work over several hosts as it is set up"
        )


def _distant(error: BaseException) -> bool:
    """Whether an error may come from another host: all that is not plainly our own."""
    return not isinstance(error, FusekitError | KeyboardInterrupt) or error.__cause__ is not None


def _line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, FusekitError) else f"{type(error).__name__}: {text}"[:2000]


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""The exit statuses of a process, by what ended it: schedulers decide by them what to try again."""

import errno
from collections.abc import Iterator

from fusekit.errors import FusekitError

FAULT = 1
"""A fault of fusekit itself, with its traceback."""
MEND = 2
"""What the user can mend: to try again is no use."""
AGAIN = 75
"""EX_TEMPFAIL: something that passes, such as the loss of another host."""
INTERRUPTED = 130
"""Ctrl-C."""

PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EAGAIN", "EINTR", "EREMOTEIO"),
        *("ETIMEDOUT", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
)
"""Faults of storage and networks that may be gone the next time."""


def status_of(error: BaseException) -> int:
    """The exit status that an error gives the process."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if any(isinstance(one, OSError) and one.errno in PASSING for one in _causes(error)):
        return AGAIN
    return MEND if isinstance(error, FusekitError | OSError) else FAULT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__

"""Exit statuses: what passes is to be tried again, what the user can mend is not."""

import errno

import pytest

from fusekit.errors import CheckpointError, DataError
from fusekit.status import AGAIN, FAULT, INTERRUPTED, MEND, status_of


def raised_from(cause: BaseException) -> CheckpointError:
    try:
        raise CheckpointError("the checkpoint cannot be written") from cause
    except CheckpointError as error:
        return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("labels do not fit"), MEND),
        (FileNotFoundError(errno.ENOENT, "no such file"), MEND),
        (OSError(errno.ENOSPC, "no space left"), MEND),
        (OSError(errno.EIO, "input/output error"), AGAIN),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), AGAIN),
        (raised_from(OSError(errno.ESTALE, "stale file handle")), AGAIN),
        (raised_from(OSError(errno.EACCES, "denied")), MEND),
        (KeyboardInterrupt(), INTERRUPTED),
        (ValueError("a fault of ours"), FAULT),
    ],
)
def test_the_status_of_an_error(error, expected):
    assert status_of(error) == expected

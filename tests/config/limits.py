"""How much memory checking configs may take."""

import resource

MEMORY = 1 << 30
"""Bytes by which the process may grow while configs are checked."""


def peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

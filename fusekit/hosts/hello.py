"""What a host says of itself when it comes."""

import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fusekit.hosts.place import WAIT, Place

LONGER = f"{WAIT}=SECONDS waits longer"


def hello(place: Place) -> dict[str, Any]:
    """Which process it is, of how many, where, and with which versions."""
    return {
        "hello": place.process,
        "of": place.processes,
        "name": socket.gethostname(),
        "versions": {name: _version(name) for name in ("fusekit", "jax", "jaxlib")},
    }


def told(greeting: dict[str, Any]) -> str:
    """The versions of a host, as they stand in messages."""
    versions = greeting.get("versions")
    items = versions.items() if isinstance(versions, dict) else ()
    return ", ".join(f"{name} {number}" for name, number in items) or "none"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"

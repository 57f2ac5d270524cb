"""Packages that are used where they are installed."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fusekit_modules.ops.dispatch import Reason


def lacks_tokamax() -> Reason:
    """Why tokamax cannot be used."""
    if find_spec("tokamax") is None:
        return "tokamax is not installed: pip install 'fusekit[tokamax]'"
    return None


def tokamax() -> Any:
    """The package. It would read flags of its own from the command line, which is ours."""
    flags = import_module("absl.flags").FLAGS
    if not flags.is_parsed():
        flags.mark_as_parsed()
    return import_module("tokamax")

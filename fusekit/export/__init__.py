"""Exports: what a model answers as StableHLO, for processes that have jax and not fusekit.

EXPORT/program.<platform>      the serialised program, one for each of cpu, cuda and tpu
       parameters.safetensors  its parameters by canonical path
       export.json             what goes in, what comes out, and how to check both
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusekit.export.exported import Exported, load
    from fusekit.export.manifest import Manifest
    from fusekit.export.write import export

_HOMES = {"Exported": "exported", "Manifest": "manifest", "export": "write", "load": "exported"}

__all__ = ["Exported", "Manifest", "export", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for: to read an export needs neither flax nor the language."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

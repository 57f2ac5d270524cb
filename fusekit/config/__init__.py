"""The language: YAML text -> a checked `Experiment` of frozen specs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusekit.config.loader import Loaded, load, loads
    from fusekit.config.schema import json_schema, write_schema
    from fusekit.config.spec import Experiment, experiment
    from fusekit.config.union import OneOf
    from fusekit.config.writer import dump, dump_resolved

__all__ = [
    "Experiment",
    "Loaded",
    "OneOf",
    "dump",
    "dump_resolved",
    "experiment",
    "json_schema",
    "load",
    "loads",
    "write_schema",
]

_HOMES = {
    "Experiment": "spec",
    "Loaded": "loader",
    "OneOf": "union",
    "dump": "writer",
    "dump_resolved": "writer",
    "experiment": "spec",
    "json_schema": "schema",
    "load": "loader",
    "loads": "loader",
    "write_schema": "schema",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: specs need the plug-in contract, and that needs jax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

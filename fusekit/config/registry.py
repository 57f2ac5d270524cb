"""The registry: the closed set of component types per slot.

A component joins by decorator; a slot offers pydantic a tagged union over `type`, so validation,
schema, command-line help, docs and conformance tests follow by themselves. Plug-ins arrive by the
entry-point group `fusekit.components`: each entry point names a package which, once imported, has
registered its components. Nothing in a config is ever imported.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar, cast, get_args

if TYPE_CHECKING:
    from fusekit.component import Component

GROUP = "fusekit.components"
CONTRACT = 1
"""Version of the plug-in contract. A plug-in package may state `FUSEKIT_CONTRACT = 1`."""

SLOTS = (
    "modality",
    "encoder",
    "fusion",
    "head",
    "loss",
    "metric",
    "source",
    "transform",
    "optimizer",
    "schedule",
)

C = TypeVar("C", bound="type[Component]")

_registered: dict[str, dict[str, type["Component"]]] = {slot: {} for slot in SLOTS}
_loaded: dict[str, str] = {}


def type_name(component: type["Component"]) -> str:
    """The name that stands for a component in a config: the value of its `type` field."""
    (name,) = get_args(component.model_fields["type"].annotation)
    return name


def register(component: C) -> C:
    """Class decorator: adds a component to its slot. A taken name is an error."""
    slot, name = component.slot, type_name(component)
    taken = _registered[slot].get(name)
    if taken is not None and taken.__qualname__ != component.__qualname__:
        raise ValueError(f"{slot} {name!r} is already registered by {taken.__module__}")
    _registered[slot][name] = component
    return cast(C, component)


@cache
def _points() -> tuple[EntryPoint, ...]:
    """What is installed, looked up once: it takes milliseconds, and every check asks."""
    return tuple(entry_points(group=GROUP))


def load_plugins() -> dict[str, str]:
    """Imports every package of the entry-point group once; returns {entry point: package}.

    Raises `ImportError` if a package states another contract version than `CONTRACT`.
    """
    for point in _points():
        if point.name in _loaded:
            continue
        package = point.load()
        version = getattr(package, "FUSEKIT_CONTRACT", CONTRACT)
        if version != CONTRACT:
            raise ImportError(
                f"{point.value} is written for plug-in contract {version}; this is {CONTRACT}"
            )
        _loaded[point.name] = point.value
    return dict(_loaded)


def components(slot: str) -> dict[str, type["Component"]]:
    """All components of a slot by name, plug-ins included, in alphabetical order."""
    load_plugins()
    return dict(sorted(_registered[slot].items()))


def walk() -> Iterator[tuple[str, str, type["Component"]]]:
    """Every (slot, name, component)."""
    for slot in SLOTS:
        for name, component in components(slot).items():
            yield slot, name, component


Factory = Callable[..., object]

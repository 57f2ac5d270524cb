"""References to names that nothing has, in an experiment that has other faults.

The graph finds these in an experiment that is right otherwise. Here nothing is known but names,
so that a misspelt field or type does not hide a misspelt reference. The words are those of the
graph.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fusekit.config import words
from fusekit.config.declared import declared
from fusekit.config.reference import Place, Reference, parse_place, parse_reference
from fusekit.config.registry import components
from fusekit.config.sections import LOSSES, NODES, SECTIONS
from fusekit.config.tree import Path
from fusekit.errors import Problem, nearest

Names = Mapping[str, list[str]]
"""The names that are declared, by section."""


def check(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Every reference and place whose name is not declared.

    Where it is not known what a section declares, nothing is said.
    """
    parts = sections.get("parts")
    names: dict[str, list[str]] = {
        "parts": [*map(str, parts)] if isinstance(parts, Mapping) else []
    }
    for section in ("modalities", *NODES):
        found = declared(sections, section)
        if found is None:
            return
        names[section] = found
    for section in ("modalities", *NODES, "losses", "metrics"):
        known = components(SECTIONS[section])
        entries = sections.get(section)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(entry, Mapping):
                for problem in _entry(_meant(known, entry), section, str(name), entry, names):
                    yield problem.under(section, name)
    yield from _parts(parts, names)
    yield from _laid_out(sections, [name for section in NODES for name in names[section]])


def _laid_out(sections: Mapping[str, Any], nodes: list[str]) -> Iterator[Problem]:
    """What `mesh.components` lays out, and nothing declares."""
    losses = [f"{LOSSES}{name}" for name in declared(sections, "losses") or ()]
    mesh = sections.get("mesh")
    own = mesh.get("components") if isinstance(mesh, Mapping) else None
    for name in map(str, own) if isinstance(own, Mapping) else ():
        if name not in (*nodes, *losses):
            yield unknown_component(name, [*nodes, *losses])


def unknown_component(name: str, known: Iterable[str]) -> Problem:
    """Complains of a name in `mesh.components`."""
    message, due = "there is no such component", "an encoder, a fusion, a head or losses.NAME"
    path = ("mesh", "components", name)
    return Problem(path, message, name, due, nearest(name, known), lacking=True)


def _parts(parts: Any, names: Names) -> Iterator[Problem]:
    """What is wrong with the names that parts give."""
    for part, entry in parts.items() if isinstance(parts, Mapping) else ():
        for field in ("of", "given"):
            value = entry.get(field) if isinstance(entry, Mapping) else None
            for path, text in _texts(value, ("parts", str(part), field)):
                if problem := _wrong(text, {Reference}, "parts", "", names):
                    yield problem.under(*path)


def _meant(known: Mapping[str, type[BaseModel]], entry: Mapping[str, Any]) -> list[type[BaseModel]]:
    """The component that an entry names; of an unknown type, all that it may mean."""
    kind = entry.get("type")
    return [known[kind]] if isinstance(kind, str) and kind in known else [*known.values()]


def _entry(
    meant: list[type[BaseModel]], section: str, own: str, entry: Mapping[str, Any], names: Names
) -> Iterator[Problem]:
    """What is wrong with the names in one entry's references and places.

    A field holds references if it does in every component that may be meant and has it.
    """
    for field, value in entry.items():
        having = [component for component in meant if field in component.model_fields]
        for path, text in _texts(value, (field,)) if having else ():
            kinds = set.intersection(*(_kinds(component, path, entry) for component in having))
            if problem := _wrong(text, kinds, section, own, names):
                yield problem.under(*path)


def _kinds(component: type[BaseModel], path: Path, entry: Mapping[str, Any]) -> set[Any]:
    """Whether references or places are due at a path within a component."""
    hints = words.at(component, path, entry)
    every = words.flat([*hints, *words.below(hints, 0)])
    return {kind for kind in (Reference, Place) if any(it is kind for it, _ in every)}


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The texts in a field, in a list or mapping too, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        yield from (((*path, str(key)), it) for key, it in value.items() if isinstance(it, str))
    elif isinstance(value, list | tuple):
        yield from (((*path, at), it) for at, it in enumerate(value) if isinstance(it, str))


def _wrong(text: str, kinds: set[Any], section: str, own: str, names: Names) -> Problem | None:
    """What is wrong with the name in a reference or place, if the text is one."""
    try:
        if Reference in kinds and section == "modalities":
            return _view(parse_reference(text), own, names["modalities"])
        if Reference in kinds:
            return _reference(parse_reference(text), names)
        if Place in kinds:
            return _place(parse_place(text), names["encoders"], names["parts"])
    except ValueError:
        pass
    return None


def _reference(reference: Reference, names: Names) -> Problem | None:
    nodes = list(dict.fromkeys(name for section in NODES for name in names[section]))
    name, prefix, known, what = reference.name, "", nodes, "nothing"
    if name == "batch" and reference.ports:
        name, prefix, known, what = reference.ports[0], "batch.", names["modalities"], "no modality"
    if name in known or name == "batch" or name.partition(".")[0] in names["parts"]:
        return None
    if not prefix and name in names["modalities"]:
        message = f"{name} is a modality: what comes from data is a port of batch"
        return Problem((), message, str(reference), f"batch.{name}", lacking=True)
    close = tuple(prefix + other for other in nearest(name, known))
    due = words.one_of(prefix + other for other in known) if known and not close else ""
    return Problem((), f"{what} is called {name}", str(reference), due, close, lacking=True)


def _view(reference: Reference, own: str, modalities: list[str]) -> Problem | None:
    """Of a view: it names its modality with or without `batch.`."""
    inner = reference.name == "batch"
    name = reference.ports[0] if inner and reference.ports else reference.name
    if name in modalities or (inner and not reference.ports):
        return None
    known = [other for other in modalities if other != own]
    close = nearest(name, known)
    due = words.one_of(known) if known and not close else ""
    found = str(reference).removeprefix("batch.")
    return Problem((), f"no modality is called {name}", found, due, close, lacking=True)


def _place(place: Place, stacks: list[str], parts: list[str]) -> Problem | None:
    if place.stack in stacks or place.stack.partition(".")[0] in parts:
        return None
    due = f"a place in one of {', '.join(stacks)}" if stacks else "an encoder's layers"
    close = nearest(place.stack, stacks)
    message = f"no encoder is called {place.stack}"
    return Problem((), message, str(place), due, close, lacking=True)

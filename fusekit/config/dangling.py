"""References to names that nothing has, in an experiment that has other faults.

The graph finds these in an experiment that is right otherwise. Here nothing is known but names,
so that a misspelt field does not hide a misspelt reference. The words are those of the graph.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fusekit.config import words
from fusekit.config.reference import Place, Reference, parse_place, parse_reference
from fusekit.config.registry import components
from fusekit.config.sections import NODES, OTHER, SECTIONS
from fusekit.config.tree import Path
from fusekit.errors import Problem, nearest


def check(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Every reference and place whose name is not declared.

    Where a section is misspelt, what it declares is not known, and nothing is said.
    """
    if any(section not in (*SECTIONS, *OTHER) for section in sections):
        return
    names = {section: _names(sections.get(section)) for section in ("modalities", *NODES)}
    for section in (*NODES, "losses", "metrics"):
        known = components(SECTIONS[section])
        entries = sections.get(section)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            kind = entry.get("type") if isinstance(entry, Mapping) else None
            if isinstance(kind, str) and kind in known:
                for problem in _entry(known[kind], entry, names):
                    yield problem.under(section, name)


def _entry(
    component: type[BaseModel], entry: Mapping[str, Any], names: Mapping[str, list[str]]
) -> Iterator[Problem]:
    """What is wrong with the names in one entry's references and places."""
    for field in component.model_fields:
        for path, text in _texts(entry.get(field), (field,)):
            hints = words.at(component, path, entry)
            kinds = [it for it, _ in words.flat([*hints, *words.below(hints, 0)])]
            if problem := _wrong(text, kinds, names):
                yield problem.under(*path)


def _names(entries: Any) -> list[str]:
    return [str(name) for name in entries] if isinstance(entries, Mapping) else []


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The texts in a field, in a list or mapping too, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        yield from (((*path, str(key)), it) for key, it in value.items() if isinstance(it, str))
    elif isinstance(value, list | tuple):
        yield from (((*path, at), it) for at, it in enumerate(value) if isinstance(it, str))


def _wrong(text: str, kinds: list[Any], names: Mapping[str, list[str]]) -> Problem | None:
    """What is wrong with the name in a reference or place, if the text is one."""
    try:
        if Reference in kinds:
            return _reference(parse_reference(text), names)
        if Place in kinds:
            return _place(parse_place(text), names["encoders"])
    except ValueError:
        pass
    return None


def _reference(reference: Reference, names: Mapping[str, list[str]]) -> Problem | None:
    nodes = list(dict.fromkeys(name for section in NODES for name in names[section]))
    name, prefix, known, what = reference.name, "", nodes, "nothing"
    if name == "batch" and reference.ports:
        name, prefix, known, what = reference.ports[0], "batch.", names["modalities"], "no modality"
    if name in known or name == "batch":
        return None
    if not prefix and name in names["modalities"]:
        message = f"{name} is a modality: what comes from data is a port of batch"
        return Problem((), message, str(reference), f"batch.{name}", lacking=True)
    close = tuple(prefix + other for other in nearest(name, known))
    due = words.one_of(prefix + other for other in known) if known and not close else ""
    return Problem((), f"{what} is called {name}", str(reference), due, close, lacking=True)


def _place(place: Place, stacks: list[str]) -> Problem | None:
    if place.stack in stacks:
        return None
    due = f"a place in one of {', '.join(stacks)}" if stacks else "an encoder's layers"
    close = nearest(place.stack, stacks)
    message = f"no encoder is called {place.stack}"
    return Problem((), message, str(place), due, close, lacking=True)

"""The outermost form of an experiment: sections that exist, and named entries in them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fusekit.config.scalars import show
from fusekit.config.sections import LATER, OTHER, SECTIONS, later
from fusekit.config.union import article, read
from fusekit.config.validate import KeyProblem
from fusekit.errors import Problem, nearest


def tidied(sections: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The sections that can be looked into further, and what is wrong with the others.

    An empty section counts as absent.
    """
    clean: dict[str, Any] = {}
    problems: list[Problem] = []
    for section, value in sections.items():
        if section not in SECTIONS and section not in OTHER:
            problems.append(stranger(section))
        elif value is None:
            continue
        elif section not in SECTIONS:
            clean[section] = value
        elif problem := unnamed(section, value):
            problems.append(problem)
        else:
            clean[section] = {}
            for name, entry in value.items():
                if entry is None:
                    message = f"`{name}` is null, and there is no such entry to delete"
                    close = nearest(str(name), _others(value, name))
                    path = (section, name)
                    problems.append(KeyProblem(path, message, nearest=close, lacking=True))
                elif isinstance(entry, Mapping) and "type" not in entry:
                    _, (problem,) = read(SECTIONS[section], entry)
                    close = (*problem.nearest, *nearest(str(name), _others(value, name)))
                    problems.append(replace(problem, path=(section, name), nearest=close))
                else:
                    clean[section][name] = entry
    return clean, problems


def _others(entries: Mapping[str, Any], name: str) -> list[str]:
    return [str(other) for other in entries if other != name]


def stranger(section: str) -> Problem:
    """Complains of a section that does not exist."""
    known = (*SECTIONS, *OTHER, "extends")
    if section == "extends":
        message = "`extends` belongs to files: in Python, build from what was loaded"
        return KeyProblem((section,), message)
    if section in LATER:
        return KeyProblem((section,), later(section), expected=LATER[section])
    return KeyProblem(
        (section,),
        f"there is no section `{section}`",
        expected=f"one of {', '.join(known)}",
        nearest=nearest(section, known),
    )


def unnamed(section: str, value: Any) -> Problem | None:
    """Complains of a section that does not map names to entries."""
    slot = SECTIONS[section]
    due = f"names, each with {article(slot)}: {{my_{slot}: {{type: …}}}}"
    if not isinstance(value, Mapping):
        message = f"`{section}` holds named entries"
        return Problem((section,), message, show(value), due)
    if isinstance(value.get("type"), str):
        message = f"`{section}` holds named entries, and this is an entry without a name"
        return KeyProblem((section, "type"), message, show(value["type"]), due)
    return None

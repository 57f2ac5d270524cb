"""Overrides: `--set a.b=value` changes a config by the same rule as a file that extends it.

The value is YAML. All overrides together are one change, so their order does not matter, except
that of two for one path the later wins. A key that holds a dot is written in double quotes.
"""

import re
from collections.abc import Iterable, Iterator

from fusekit.config.merge import merge
from fusekit.config.sections import OTHER, SECTIONS
from fusekit.config.shape import stranger
from fusekit.config.source import parse
from fusekit.config.tree import Node, Path, locate
from fusekit.errors import Position, Problem, nearest

_STEP = re.compile(r'"([^"]*)"|([^."=]+)')
_FORM = "PATH=VALUE, such as fusion.joint.width=64"


def apply(root: Node, overrides: Iterable[str]) -> tuple[Node, list[Problem]]:
    """The config with all overrides, and what was wrong with them."""
    change = Node({})
    problems: list[Problem] = []
    for text in overrides:
        position = Position(f"--set {text}", 0, 0)
        wrong = _add(change, text, position)
        problems += [problem.at(position) for problem in wrong]
    problems += [*_strangers(root, change), *_into_lists(root, change)]
    return (root, problems) if problems else (merge(root, change), [])


def _add(change: Node, text: str, position: Position) -> list[Problem]:
    path, equals, value = _split(text)
    if not equals or path is None:
        return [Problem((), "an override is not of the right form", expected=_FORM)]
    if not value.strip():
        return [Problem(path, "a value is missing", expected="a value, or null to delete")]
    if path == ("extends",):
        return [Problem(path, "a config cannot be given another base by an override")]
    reading = parse(value, "", single=position)
    if reading.root is None or reading.problems:
        return [problem.under(*path) for problem in reading.problems]
    node = change
    for index, step in enumerate(path):
        fields = node.fields
        if index == len(path) - 1:
            reading.root.key = position
            _put(fields, step, reading.root)
            continue
        below = fields.setdefault(step, Node({}))
        if not isinstance(below.value, dict):
            return [Problem(path, "contradicts another override, of what encloses it")]
        node = below
    return []


def _put(fields: dict[str, Node], name: str, node: Node) -> None:
    """Lays an override over earlier ones; null stays null, for it still has to delete."""
    old = fields.get(name)
    if old is None or not isinstance(old.value, dict) or not isinstance(node.value, dict):
        fields[name] = node
        return
    for key, child in node.fields.items():
        _put(old.fields, key, child)


def _split(text: str) -> tuple[tuple[str, ...] | None, bool, str]:
    """(path, whether there is an equals sign, the text of the value)."""
    steps: list[str] = []
    at = 0
    while match := _STEP.match(text, at):
        steps.append(match[1] if match[1] is not None else match[2].strip())
        at = match.end()
        if text[at : at + 1] == "=":
            return (tuple(steps) if all(steps) else None), True, text[at + 1 :]
        if text[at : at + 1] != ".":
            return None, "=" in text, ""
        at += 1
    return None, "=" in text, ""


def _strangers(root: Node, change: Node) -> list[Problem]:
    """Complains of paths into sections and entries that do not exist."""
    problems: list[Problem] = []
    for section, entries in change.fields.items():
        where = locate(entries, ())
        if section not in SECTIONS:
            if section not in OTHER:
                problems.append(stranger(section).at(where))
            continue
        have = root.fields[section].fields if section in root.fields else {}
        for name, entry in entries.fields.items():
            if name in have or "type" in entry.fields or not isinstance(entry.value, dict):
                continue
            message = f"`{section}` has no `{name}` to change; a new one needs a `type`"
            close, where = nearest(name, have), locate(entry, ())
            problems.append(Problem((section, name), message, nearest=close, position=where))
    return problems


def _into_lists(root: Node, change: Node, path: Path = ()) -> Iterator[Problem]:
    """Complains of paths into lists: a list is replaced whole."""
    for name, child in change.fields.items():
        there, here = root.fields.get(name), (*path, name)
        if there is None:
            continue
        if isinstance(there.value, list) and child.fields and child.position is None:
            message = f"`{name}` is a list, and lists are replaced whole"
            due = f"{'.'.join(map(str, here))}=[...]"
            yield Problem(here, message, expected=due, position=locate(child, ()))
        else:
            yield from _into_lists(there, child, here)

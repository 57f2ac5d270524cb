"""How deep and how large a value is that was given in Python, where it may even hold itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from fusekit.config.source import DEPTH, VALUES
from fusekit.errors import Problem

_ENDLESS = (DEPTH + 1, VALUES + 1)


def check(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Complains of sections that are nested too deep or hold too much to look into."""
    measured: dict[int, tuple[int, int]] = {}
    for section, value in sections.items():
        depth, size = _measure(value, 1, measured)
        if depth >= DEPTH:
            due = "mappings and lists in one another at most that often"
            yield Problem((section,), f"nested deeper than {DEPTH}", expected=due)
        elif size > VALUES:
            yield Problem((section,), f"a config holds at most {VALUES} keys and values")


def _measure(value: Any, level: int, measured: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(levels of mappings and lists, number of values), each container looked into once."""
    if not isinstance(value, Mapping | list | tuple):
        return 0, 1
    if id(value) in measured:
        return measured[id(value)]
    if level > DEPTH:
        return _ENDLESS
    measured[id(value)] = _ENDLESS
    children = value.values() if isinstance(value, Mapping) else value
    depth, size = 0, 1 + (len(value) if isinstance(value, Mapping) else 0)
    for child in children:
        below, more = _measure(child, level + 1, measured)
        depth, size = max(depth, below), size + more
    measured[id(value)] = depth + 1, size
    return depth + 1, size

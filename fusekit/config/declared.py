"""Which names an experiment declares, as far as that is known beside its faults."""

from collections.abc import Mapping
from typing import Any

from fusekit.config.sections import OTHER, SECTIONS
from fusekit.config.shape import unnamed


def declared(sections: Mapping[str, Any], *wanted: str) -> list[str] | None:
    """The names of all entries in some sections, those of entries with a fault too.

    None where they are not known: a section is misspelt, or one of these holds no named entries.
    """
    if any(section not in (*SECTIONS, *OTHER) for section in sections):
        return None
    names: dict[str, None] = {}
    for section in wanted:
        entries = sections.get(section)
        if entries is not None and unnamed(section, entries):
            return None
        names |= dict.fromkeys(map(str, entries or ()))
    return list(names)

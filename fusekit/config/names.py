"""Names of entries: their form, the reserved ones, and the namespace that nodes share."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fusekit.config import stages
from fusekit.config.declared import declared
from fusekit.config.reference import NAME
from fusekit.config.scalars import show
from fusekit.config.sections import NODES, RESERVED, RESERVED_NODES, SECTIONS
from fusekit.config.validate import NAME_WORDS, KeyProblem
from fusekit.config.words import one_of
from fusekit.errors import Problem, nearest

NAMED = (*NODES, "parts")
"""Sections whose names are of one namespace."""

_NAME = re.compile(rf"^{NAME}\Z")


def check(sections: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything wrong with the names in an experiment's sections.

    `given` are the sections as they were given, with the entries that have a fault.
    """
    taken: dict[str, str] = {}
    for section in (*SECTIONS, "parts"):
        entries = sections.get(section)
        nodes = section == "modalities" or section in NAMED
        reserved = RESERVED | RESERVED_NODES if nodes else RESERVED
        for name in entries if isinstance(entries, Mapping) else ():
            if not isinstance(name, str) or not _NAME.match(name):
                yield KeyProblem(
                    (section, name),
                    "is not a name",
                    show(name),
                    NAME_WORDS,
                )
            elif name in reserved:
                message = f"`{name}` is reserved: it stands for {reserved[name]}"
                yield KeyProblem((section, name), message, expected="another name")
            elif section in NAMED:
                if name in taken:
                    what = "part" if taken[name] == "parts" else "node"
                    message = f"`{name}` is taken: `{taken[name]}` has a {what} of this name"
                    yield KeyProblem((section, name), message, expected="another name")
                taken.setdefault(name, section)
    yield from _selected(given)
    yield from _provided(given)
    yield from stages.check(given)


def _selected(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """`train.select` names a metric."""
    train, metrics = sections.get("train"), declared(sections, "metrics")
    chosen = train.get("select") if isinstance(train, Mapping) else getattr(train, "select", None)
    if isinstance(chosen, str) and metrics is not None and chosen not in metrics:
        due = one_of(metrics) if metrics else "a metric, but there are none"
        message = "there is no metric of this name"
        close = nearest(chosen, metrics)
        yield Problem(("train", "select"), message, show(chosen), due, close, lacking=True)


def _provided(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """What a source says of modalities is about modalities that are declared."""
    modalities, sources = declared(sections, "modalities"), sections.get("data")
    if modalities is None or not isinstance(sources, Mapping):
        return
    due = one_of(modalities) if modalities else "a modality, but there are none"
    for name, source in sources.items():
        for field in ("provides", "missing", "standardise"):
            own = source.get(field) if isinstance(source, Mapping) else None
            value = getattr(source, field, own)
            listed = isinstance(value, list | tuple)
            entries = value if isinstance(value, Mapping) or listed else ()
            for index, modality in enumerate(entries):
                if isinstance(modality, str) and modality not in modalities:
                    close = nearest(modality, modalities)
                    step = index if listed else modality
                    message = "there is no modality of this name"
                    path, found = ("data", name, field, step), show(modality)
                    yield KeyProblem(path, message, found, due, close, lacking=True)

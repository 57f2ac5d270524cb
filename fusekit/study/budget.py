"""Budgets: a declared knob is turned until a model costs what another one does."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from fusekit.config.spec import Experiment
from fusekit.errors import ConfigError, FusekitError
from fusekit.study.cost import Budget, Cost
from fusekit.study.spec import changed, with_sections
from fusekit.study.turning import Setting, nearest

KNOB = "encoders.*.width"
TOLERANCE = 0.1

_FORM = re.compile(r"^(encoders|fusion|heads)\.([A-Za-z0-9_*?]+)\.([a-z_]+)$")


@dataclass(frozen=True)
class Matched:
    """An experiment at its budget.

    Args:
      experiment: after the knob was turned.
      cost: of it.
      values: of the knob's fields, by path; empty where nothing was changed.
      ratio: its cost by that of the reference; 1 without a budget.
      note: why it does not fit, if so.
    """

    experiment: Experiment
    cost: Cost
    values: dict[str, int]
    ratio: float
    note: str = ""

    @property
    def fits(self) -> bool:
        return not self.note


def settings(experiment: Experiment, knobs: Iterable[str]) -> tuple[Setting, ...]:
    """The integer fields that knobs name: `section.name.field`, where `name` may be a pattern.

    Raises `FusekitError` for what has not that form.
    """
    found: dict[str, Setting] = {}
    for knob in knobs:
        match = _FORM.match(knob)
        if match is None:
            raise FusekitError(f"{knob} is no knob: name one as {KNOB} or fusion.joint.rank")
        section, pattern, field = match.groups()
        for name, spec in getattr(experiment, section).items():
            value = getattr(spec, field, None)
            if fnmatchcase(name, pattern) and isinstance(value, int) and value > 0:
                grain = _grain(spec, field)
                setting = Setting(section, name, field, value, grain)
                found[setting.path] = setting
    return tuple(found.values())


def _grain(spec: Any, field: str) -> int:
    """Widths stay multiples of the number of heads."""
    heads = getattr(spec, "heads", None)
    return heads if field == "width" and isinstance(heads, int) else 1


def turned(experiment: Experiment, values: dict[str, int]) -> Experiment:
    """The experiment with other values by path."""
    sections: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, name, field = path.split(".")
        specs = sections.setdefault(section, dict(getattr(experiment, section)))
        specs[name] = changed(specs[name], **{field: value})
    return with_sections(experiment, **sections)


def match(
    experiment: Experiment,
    target: Cost,
    budget: Budget,
    knobs: Iterable[str] = (KNOB,),
    tolerance: float = TOLERANCE,
) -> Matched:
    """Turns the knobs to the target's cost: all by one factor, or as near to one as fits.

    What lies within the tolerance as declared stays as it is. Where no common factor comes within
    it, settings are turned singly by the steps next to it: of what fits, that which strays least
    from the factor. What cannot be brought there is given back at its nearest, with a note.

    Raises:
      FusekitError: a knob has not the right form.
    """
    cost = Cost(experiment)
    if budget == "none":
        return Matched(experiment, cost, {}, 1.0)
    due = target.of(budget)
    declared = Matched(experiment, cost, {}, cost.of(budget) / due)
    found = settings(experiment, knobs)
    if abs(declared.ratio - 1) <= tolerance:
        return declared

    def at(values: dict[str, int]) -> Matched | None:
        try:
            other = turned(experiment, values)
            cost = Cost(other)
            return Matched(other, cost, values, cost.of(budget) / due)
        except ConfigError:
            return None

    best = nearest(found, declared, at, tolerance) if found else declared
    if abs(best.ratio - 1) <= tolerance:
        return best
    return replace(best, note=_note(best.ratio, budget, knobs, turned_any=bool(found)))


def _note(ratio: float, budget: Budget, knobs: Iterable[str], *, turned_any: bool) -> str:
    how = f"with {', '.join(knobs)} at its nearest" if turned_any else "and has no knob to turn"
    return f"{(ratio - 1):+.0%} {budget} {how}"

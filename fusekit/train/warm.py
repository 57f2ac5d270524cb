"""Warm starts: parameters of earlier stages or of other checkpoints, by rules and with a report."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.config.train import Start
from fusekit.errors import CheckpointError, nearest
from fusekit.program import Program
from fusekit.train.optimizer import FROZEN, matches
from fusekit.train.state import TrainState

Flat = Mapping[str, Any]
"""A state, or parameters, by canonical path."""

PARAMS, VARIABLES = "params.", "variables."


@dataclass(frozen=True)
class Report:
    """What a warm start came to, by canonical parameter path.

    Args:
      loaded: taken from elsewhere.
      missing: not found there, and as they are before training.
      unused: found there, and taken by nothing.
      frozen: loaded and not trained.
      untrained: missing and not trained: they stay as they began, at random.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    frozen: tuple[str, ...]
    untrained: tuple[str, ...]

    def line(self) -> str:
        """One line for people."""
        counts = [f"{len(paths)} {name}" for name, paths in asdict(self).items() if paths]
        return f"parameters: {', '.join(counts) or 'none'}"

    def plain(self) -> dict[str, list[str]]:
        """For a file."""
        return {name: list(paths) for name, paths in asdict(self).items()}


def warm(
    program: Program, state: TrainState, start: Start, flat: Flat, stages: Mapping[str, Flat]
) -> tuple[TrainState, Report]:
    """The state with what `start` says of other states: parameters, and statistics under them.

    Args:
      program: of `state`.
      state: all else comes from it; it must not be used again.
      start: the rules.
      flat: the state to take from, by canonical path.
      stages: all earlier ones, by name: `copies` take from them.

    Raises:
      CheckpointError: shapes do not fit, a rule names nothing, or nothing is loaded.
    """
    own = program.flat(state)
    due = {p.removeprefix(PARAMS): v for p, v in own.items() if p.startswith(PARAMS)}
    theirs = {p.removeprefix(PARAMS): v for p, v in flat.items() if p.startswith(PARAMS)}
    named = _renamed(theirs, start.rename)
    taken = {p: v for p, v in named.items() if p in due and _wanted(p, start.only)}
    unused = [p for p in named if p not in taken]
    taken |= _copied(due, start.copies, stages)
    taken |= _followers(program, due, taken)
    _fit(taken, due)
    if not taken:
        raise CheckpointError(
            "start: no parameter that is there is called as one that is due: "
            f"there are {_some(named)}; due are {_some(due)}"
        )
    statistics = {
        p: v
        for p, v in flat.items()
        if p.startswith(VARIABLES)
        and p in own
        and np.shape(v) == np.shape(own[p])
        and _wanted(p.removeprefix(VARIABLES), start.only)
    }
    new = program.restored(
        {**own, **statistics, **{PARAMS + p: np.asarray(v) for p, v in taken.items()}}
    )
    return new, _report(program, due, taken, unused)


def averaged(flats: Mapping[str, Flat], weights: Mapping[str, float]) -> dict[str, Any]:
    """Parameters averaged over stages, in float64; all else is the first stage's.

    Raises `CheckpointError` where a stage lacks a parameter of the first.
    """
    total = sum(weights.values())
    first = flats[next(iter(weights))]
    found = dict(first)
    for path in first:
        if not path.startswith(PARAMS):
            continue
        lacking = [name for name in weights if path not in flats[name]]
        if lacking:
            raise CheckpointError(f"start.average: {path} is not in {', '.join(lacking)}")
        parts = [np.asarray(flats[n][path], np.float64) * (w / total) for n, w in weights.items()]
        found[path] = np.sum(parts, axis=0).astype(np.asarray(first[path]).dtype)
    return found


def _renamed(theirs: Flat, rules: Mapping[str, str]) -> dict[str, Any]:
    """Their parameters under the names that the first rule that fits gives them."""
    found: dict[str, Any] = {}
    used: set[str] = set()
    for path, value in theirs.items():
        new = path
        for old, instead in rules.items():
            match = _matcher(old).match(path)
            if match:
                used.add(old)
                new = _filled(instead, match.groups()[:-1]) + match.groups()[-1]
                break
        if new in found:
            raise CheckpointError(f"start.rename: two parameters would be called {new}")
        found[new] = value
    idle = [rule for rule in rules if rule not in used]
    if idle:
        raise CheckpointError(
            f"start.rename: nothing is called {', '.join(idle)}: there are {_some(theirs)}"
        )
    return found


def _copied(
    due: Flat, rules: Mapping[str, str | tuple[str, ...]], stages: Mapping[str, Flat]
) -> dict[str, Any]:
    """What `copies` says: a parameter of a stage, or one for each expert."""
    found: dict[str, Any] = {}
    for target, source in rules.items():
        hits = [(path, m) for path in due if (m := _matcher(target).match(path))]
        if not hits:
            message = f"start.copies: nothing is called {target}: {_like(target, due)}"
            raise CheckpointError(message)
        for path, match in hits:
            sources = [source] if isinstance(source, str) else source
            arrays = [_array(one, match, stages) for one in sources]
            shape = np.shape(due[path])
            if isinstance(source, str):
                whole = arrays[0].shape == shape[1:] and arrays[0].shape != shape
                found[path] = np.broadcast_to(arrays[0], shape) if whole else arrays[0]
            else:
                found[path] = np.stack(arrays) if len({a.shape for a in arrays}) == 1 else arrays[0]
    return found


def _followers(program: Program, due: Flat, taken: Flat) -> dict[str, Any]:
    """What parts that begin as copies have, where it was not found by itself: the original's."""
    units, found = program.model.units, {}
    for unit, origin in units.origins.items():
        for path in due:
            rest = path.removeprefix(f"{unit.path}.")
            first = f"{units.owner(origin).path}.{rest}"
            if rest != path and path not in taken and first in taken:
                found[path] = taken[first]
    return found


def _array(source: str, match: "re.Match[str]", stages: Mapping[str, Flat]) -> NDArray[Any]:
    stage, _, pattern = source.partition(".")
    path = _filled(pattern, match.groups()[:-1]) + match.groups()[-1]
    if PARAMS + path not in stages[stage]:
        there = {p.removeprefix(PARAMS): 0 for p in stages[stage] if p.startswith(PARAMS)}
        raise CheckpointError(f"start.copies: {stage} has no {path}: {_like(path, there)}")
    return np.asarray(stages[stage][PARAMS + path])


def _matcher(pattern: str) -> "re.Pattern[str]":
    """`*` stands for one step; what is below a path belongs to it."""
    steps = [r"([^.]+)" if step == "*" else re.escape(step) for step in pattern.split(".")]
    return re.compile("^" + r"\.".join(steps) + r"((?:\..*)?)\Z")


def _filled(pattern: str, parts: Iterable[str]) -> str:
    """A path with the steps that `*` stood for."""
    given = iter(parts)
    return ".".join(next(given, step) if step == "*" else step for step in pattern.split("."))


def _wanted(path: str, only: tuple[str, ...] | None) -> bool:
    return only is None or any(matches(path, pattern) for pattern in only)


def _fit(taken: Flat, due: Flat) -> None:
    wrong = [
        f"{path}: {list(np.shape(value))} there, {list(np.shape(due[path]))} due"
        for path, value in taken.items()
        if np.shape(value) != np.shape(due[path])
    ]
    if wrong:
        lines = "\n    ".join(wrong)
        raise CheckpointError(f"start: {len(wrong)} parameters have other shapes:\n    {lines}")


def _some(paths: Iterable[str]) -> str:
    every = list(paths)
    return ", ".join(every[:5]) + (f" and {len(every) - 5} more" if len(every) > 5 else "")


def _like(path: str, paths: Iterable[str]) -> str:
    """Paths that resemble one; some of all if none does."""
    every = list(paths)
    close = nearest(path, every)
    return f"did you mean {', '.join(close)}" if close else f"there are {_some(every)}"


def _report(program: Program, due: Flat, taken: Flat, unused: list[str]) -> Report:
    def trained(path: str) -> bool:
        return program.states.label(path) != FROZEN

    missing = [path for path in due if path not in taken]
    return Report(
        loaded=tuple(taken),
        missing=tuple(missing),
        unused=tuple(unused),
        frozen=tuple(path for path in taken if not trained(path)),
        untrained=tuple(path for path in missing if not trained(path)),
    )

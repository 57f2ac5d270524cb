"""The errors fusekit raises. One root, so that a caller can catch them all.

A `Problem` is one thing that is wrong. Checks collect problems and raise them together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache

SHOWN = 100
"""A message shows so many problems and counts the others; all are in `problems`."""


@dataclass(frozen=True)
class Position:
    """Where something stands in a file; line and column count from 1.

    Line 0 stands for the whole of something that has no lines, such as `--set a.b=value`.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what a user declared.

    Args:
      path: the config path, such as `("fusion", "joint", "inputs", 0)`.
      message: what is wrong, in one sentence without a full stop.
      found: what stands there, as text.
      expected: what would have been right, as text.
      nearest: names that exist and resemble what was found.
      position: where it stands, if it came from a file.
      lacking: whether something is absent, so that a file which could not be read may hold it.
    """

    path: tuple[str | int, ...]
    message: str
    found: str = ""
    expected: str = ""
    nearest: tuple[str, ...] = ()
    position: Position | None = None
    lacking: bool = False

    def at(self, position: Position | None) -> "Problem":
        return replace(self, position=position)

    def under(self, *prefix: str | int) -> "Problem":
        return replace(self, path=(*prefix, *self.path))

    def __str__(self) -> str:
        where = ".".join(str(step) for step in self.path)
        head = f"{self.position}: " if self.position else ""
        text = f"{head}{where}: {self.message}" if where else f"{head}{self.message}"
        if self.found:
            text += f"\n    found: {self.found}"
        if self.expected:
            text += f"\n    expected: {self.expected}"
        if self.nearest:
            text += f"\n    did you mean: {', '.join(self.nearest)}"
        return text


class FusekitError(Exception):
    """Root of every error that fusekit raises on purpose."""


class ProblemsError(FusekitError):
    """Several problems at once."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems: tuple[Problem, ...] = tuple(problems)
        count = len(self.problems)
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"... and {count - SHOWN} more")
        super().__init__("\n".join([*lines, f"{count} problem{'s' if count != 1 else ''} found"]))


class ConfigError(ProblemsError):
    """A config, or an `Experiment` built in Python, does not say something possible."""


class SpecError(ConfigError, ValueError):
    """A spec built in Python has fields that it cannot have; paths begin within it."""


class LayoutError(FusekitError):
    """A mesh or sharding rule cannot be applied to this model."""


class HloError(FusekitError):
    """A compiled program's text cannot be read, or does not fit the mesh it is said to run on."""


class DataError(FusekitError):
    """Data does not fit the modalities that were declared."""


class CheckpointError(FusekitError):
    """A checkpoint cannot be written, read or trusted."""


class ExportError(FusekitError):
    """A model cannot be exported, or an export cannot be read or trusted."""


class WiringError(FusekitError):
    """Raised by a component's `infer` when its inputs do not fit.

    Args:
      message: what is wrong, in one sentence.
      found: what came in.
      expected: what would fit.
      field: the field of the spec that is at fault, as a path within it.
    """

    def __init__(
        self,
        message: str,
        *,
        found: object = "",
        expected: object = "",
        field: tuple[str | int, ...] = (),
        nearest: tuple[str, ...] = (),
    ):
        super().__init__(message)
        self.problem = Problem(field, message, str(found), str(expected), nearest)


MANY = 100
"""Of more names only those that differ in one character are near: to compare all takes long."""
LONG = 100
"""Of a longer name nothing is near."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_."


def nearest(name: str, names: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Names that resemble `name`, best first."""
    if len(name) > LONG:
        return ()
    folded = {other.lower(): other for other in sorted(set(names)) if len(other) <= LONG}
    if len(folded) > MANY:
        close = list(dict.fromkeys(word for word in _changed(name.lower()) if word in folded))
    else:
        close = _close(name.lower(), tuple(folded), count)
    return tuple(folded[match] for match in close[:count])


@lru_cache(maxsize=10_000)
def _close(name: str, names: tuple[str, ...], count: int) -> list[str]:
    return get_close_matches(name, names, n=count, cutoff=0.5)


def _changed(name: str) -> Iterator[str]:
    """The name, and it with two characters swapped, or one left out, changed or put in."""
    yield name
    for at in range(len(name) + 1):
        before, after = name[:at], name[at:]
        yield before + after[1:2] + after[:1] + after[2:]
        yield before + after[1:]
        for letter in _LETTERS:
            yield before + letter + after[1:]
            yield before + letter + after

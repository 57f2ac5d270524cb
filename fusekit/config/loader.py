"""From files and overrides to a checked experiment that knows where everything stands."""

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path as FilePath

from fusekit.config import tree
from fusekit.config.compose import PACKAGE, Composer, shipped
from fusekit.config.overrides import apply
from fusekit.config.spec import Experiment
from fusekit.config.tree import Node, Path
from fusekit.config.validate import KeyProblem
from fusekit.errors import ConfigError, Position, Problem


@dataclass(frozen=True)
class Loaded:
    """An experiment and where it came from.

    Args:
      experiment: what was declared.
      root: the composed config, with positions.
      files: every file that was read, those that are extended after those that extend them.
      overrides: as they were given.
    """

    experiment: Experiment
    root: Node
    files: tuple[str, ...]
    overrides: tuple[str, ...] = ()

    def locate(self, path: Path, *, key: bool = False) -> Position | None:
        """Where a config path stands, or the nearest thing that encloses it; with `key` the
        position of its key and not of its value."""
        return tree.locate(self.root, path, key=key)

    def placed(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems with their positions, in the order of the files."""
        return placed(problems, self.root, self.files)


def placed(problems: Iterable[Problem], root: Node, files: Iterable[str]) -> list[Problem]:
    """Gives problems the positions of their paths and sorts them by file, line and column."""
    order = {name: index for index, name in enumerate(files)}
    found = [
        problem.at(
            problem.position or tree.locate(root, problem.path, key=isinstance(problem, KeyProblem))
        )
        for problem in problems
    ]

    def rank(problem: Problem) -> tuple[int, int, int]:
        where = problem.position
        if where is None:
            return (-1, 0, 0)
        return (order.get(where.file, len(order)), where.line, where.column)

    return sorted(found, key=rank)


def load(path: str | PathLike[str], overrides: Iterable[str] = ()) -> Loaded:
    """Reads a config file; `fusekit:base/tiny.yaml` is one that comes with the package.

    Raises `ConfigError` with every problem found, each with its position.
    """
    name = str(path)
    inner = name.removeprefix(PACKAGE)
    composer = Composer()
    root = composer.file(shipped() / inner if inner != name else FilePath(path), name)
    return _finish(composer, root, tuple(overrides))


def loads(
    text: str,
    name: str = "<text>",
    overrides: Iterable[str] = (),
    *,
    folder: str | PathLike[str] | None = None,
) -> Loaded:
    """Reads a config from a string. `extends` starts at `folder`, if there is one."""
    composer = Composer()
    root = composer.text(text, name, FilePath(folder) if folder is not None else None)
    return _finish(composer, root, tuple(overrides))


def _finish(composer: Composer, root: Node, overrides: tuple[str, ...]) -> Loaded:
    files, problems = tuple(composer.files), composer.problems
    if composer.broken:
        problems += [problem for problem in _wrong(root, problems)[1] if not problem.lacking]
        raise ConfigError(placed(problems, root, files))
    root, wrong = apply(root, overrides)
    problems += wrong
    experiment, wrong = _wrong(root, problems)
    problems += wrong
    if problems or experiment is None:
        raise ConfigError(placed(problems, root, files))
    return Loaded(experiment, root, files, overrides)


def _wrong(root: Node, told: Iterable[Problem]) -> tuple[Experiment | None, list[Problem]]:
    """The experiment, and what is wrong with it beyond what is already told."""
    try:
        return Experiment.of(tree.plain(root)), []  # pyright: ignore[reportArgumentType]
    except ConfigError as error:
        said = {problem.path for problem in told if problem.path}
        return None, [problem for problem in error.problems if problem.path not in said]

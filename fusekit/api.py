"""The library's front door: load, resolve, compile."""

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

from fusekit.config import load as load_config
from fusekit.config.spec import Experiment
from fusekit.graph import Graph
from fusekit.graph import resolve as resolve_graph

if TYPE_CHECKING:
    from fusekit.config import Loaded
    from fusekit.program import Program


def load(path: str | PathLike[str], overrides: Iterable[str] = ()) -> Experiment:
    """Reads and checks a config, wiring included.

    Args:
      path: a YAML file.
      overrides: `a.b=value` texts, applied after `extends`.

    Raises:
      ConfigError: with every problem and its position.
    """
    return load_graph(path, overrides)[0].experiment


def load_graph(path: str | PathLike[str], overrides: Iterable[str] = ()) -> "tuple[Loaded, Graph]":
    """Like `load`, with the source positions and the graph."""
    from fusekit.patterns import check_patterns

    loaded = load_config(path, tuple(overrides))
    graph = resolve_graph(loaded.experiment, loaded.locate)
    check_patterns(graph, loaded.locate)
    return loaded, graph


def experiment(**sections: Any) -> Experiment:
    """Builds an experiment in Python: sections as mappings of specs or of plain dicts.

    Raises `ConfigError` with every problem, as `load` does, without positions.
    """
    return Experiment.of({"version": 1, **sections})


def resolve(experiment: Experiment) -> Graph:
    """The checked graph of an experiment. Raises `ConfigError`."""
    return resolve_graph(experiment)


def compile(experiment: Experiment | Graph, **options: Any) -> "Program":
    """A program for an experiment. `options` are those of `fusekit.program.Program`.

    Raises `ConfigError` if the experiment is not possible, `LayoutError` if its mesh is not.
    """
    from fusekit.program import Program

    graph = experiment if isinstance(experiment, Graph) else resolve_graph(experiment)
    return Program(graph, **options)

"""The library's front door: load, resolve, compile."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from fusekit.config import load as load_config
from fusekit.config.scalars import show
from fusekit.config.spec import Experiment
from fusekit.config.stages import staged
from fusekit.errors import ConfigError, Problem
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
    """Like `load`, with the source positions and the graph.

    Warns of what is possible and of little use: without losses nothing can be trained.
    """
    from fusekit.coupling import check_microbatches
    from fusekit.patterns import check_patterns

    loaded = load_config(path, tuple(overrides))
    if not loaded.experiment.modalities:
        message, due = "there are no modalities, so nothing can be modelled", "modalities: {…}"
        raise ConfigError([Problem((), message, expected=due, position=loaded.locate(()))])
    if not loaded.experiment.losses:
        warnings.warn("there are no losses, so nothing can be trained", stacklevel=2)
    graph = resolve_graph(loaded.experiment, loaded.locate)
    check_patterns(graph, loaded.locate)
    if not loaded.experiment.stages:
        check_microbatches(graph, locate=loaded.locate)
    _check_stages(loaded)
    return loaded, graph


def _check_stages(loaded: "Loaded") -> None:
    """Raises `ConfigError` with every problem of the stages, each at the field of the stage, or at
    that of `train` from which the stage has it."""
    from fusekit.coupling import check_microbatches
    from fusekit.patterns import check_patterns

    problems: list[Problem] = []
    for name, stage in staged(loaded.experiment).items():
        try:
            graph = resolve_graph(stage)
            check_patterns(graph)
            check_microbatches(graph)
        except ConfigError as error:
            own = loaded.experiment.stages[name].model_fields_set
            for problem in error.problems:
                path = problem.path
                if path == ("train",) or (path[:1] == ("train",) and path[1] in own):
                    path = ("stages", name, *path[1:])
                problems.append(replace(problem, path=path, position=loaded.locate(path)))
    if problems:
        raise ConfigError(problems)


def experiment(**sections: Any) -> Experiment:
    """Builds an experiment in Python: sections as mappings of specs or of plain dicts.

    Raises `ConfigError` with every problem, as `load` does, without positions.
    """
    return Experiment.of({"version": 1, **sections})


def resolve(experiment: Experiment | Mapping[str, Any]) -> Graph:
    """The checked graph of an experiment, or of its sections. Raises `ConfigError`."""
    if isinstance(experiment, Experiment):
        return resolve_graph(experiment)
    if isinstance(experiment, Mapping):
        return resolve_graph(Experiment.of(experiment))
    message, due = "an experiment is due", "what fusekit.load or fusekit.experiment gives"
    raise ConfigError([Problem((), message, show(experiment), due)])


def compile(experiment: Experiment | Graph | Mapping[str, Any], **options: Any) -> "Program":
    """A program for an experiment, its sections or its graph.

    `options` are those of `fusekit.program.Program`.

    Raises `ConfigError` if the experiment is not possible, `LayoutError` if its mesh is not.
    """
    from fusekit.program import Program

    graph = experiment if isinstance(experiment, Graph) else resolve(experiment)
    return Program(graph, **options)

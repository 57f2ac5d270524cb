"""The library's front door: load, resolve, compile."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from fusekit.config import load as load_config
from fusekit.config.scalars import show
from fusekit.config.spec import Experiment
from fusekit.config.stages import staged
from fusekit.config.validate import tidy
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
    loaded = load_config(path, tuple(overrides))
    if not loaded.experiment.modalities:
        message, due = "there are no modalities, so nothing can be modelled", "modalities: {…}"
        raise ConfigError([Problem((), message, expected=due, position=loaded.locate(()))])
    if not loaded.experiment.losses:
        warnings.warn("there are no losses, so nothing can be trained", stacklevel=2)
    graph = resolve_graph(loaded.experiment, loaded.locate)
    from fusekit.asked import check_kernels

    problems, stages = _of_stages(loaded)
    problems = [*_of_step(graph, microbatches=not loaded.experiment.stages), *problems]
    problems += _raised(lambda: check_kernels(stages.values() or [graph]))
    if problems:
        raise ConfigError(loaded.placed(tidy(problems)))
    return loaded, graph


def _of_stages(loaded: "Loaded") -> tuple[list[Problem], dict[str, Graph]]:
    """Every problem of the stages, each at the field of the stage, or at that of `train` from which
    the stage has it; and their graphs."""
    problems: list[Problem] = []
    graphs: dict[str, Graph] = {}
    for name, stage in staged(loaded.experiment).items():
        own = loaded.experiment.stages[name].model_fields_set
        found = _raised(lambda stage=stage, name=name: graphs.update({name: resolve_graph(stage)}))
        found = found or _of_step(graphs[name])
        for problem in found:
            path = problem.path
            if path == ("train",) or (path[:1] == ("train",) and path[1] in own):
                path = ("stages", name, *path[1:])
            problems.append(replace(problem, path=path, position=None))
    return problems, graphs


def _of_step(graph: Graph, *, microbatches: bool = True) -> list[Problem]:
    """What is wrong with patterns and names, and with microbatches."""
    from fusekit.coupling import check_microbatches
    from fusekit.patterns import check_patterns

    found = _raised(lambda: check_patterns(graph))
    return found or (_raised(lambda: check_microbatches(graph)) if microbatches else [])


def _raised(check: Callable[[], Any]) -> list[Problem]:
    try:
        check()
    except ConfigError as error:
        return list(error.problems)
    return []


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

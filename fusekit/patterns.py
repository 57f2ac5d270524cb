"""Checks what a config says of parameters and axes once the parameters are known."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from fusekit.component import Layered, StackSpec
from fusekit.config.dangling import unknown_component
from fusekit.config.sections import LOSSES
from fusekit.config.tree import Path
from fusekit.errors import ConfigError, Problem, nearest
from fusekit.graph.graph import Graph, Locate
from fusekit.graph.units import units
from fusekit.layout import ACTIVATIONS, PARAMS
from fusekit.remat import check_remat
from fusekit.train.optimizer import matches


def check_patterns(graph: Graph, locate: Locate | None = None) -> None:
    """Raises `ConfigError` for patterns that match no parameter, rules for no axis, names that no
    layer gives, components that are not there, and parts that do not fit the weights that they are
    tied to.

    Costs nothing where the config has none of these.
    """
    experiment = graph.experiment
    train, mesh = experiment.train, experiment.mesh
    problems: list[Problem] = [*check_remat(graph)]
    problems += _components(graph)
    patterns = train.trainable or train.groups or mesh.params or mesh.activations
    if not (patterns or mesh.components or experiment.parts or problems):
        return
    every = units(graph)
    if every.problems:
        raise ConfigError(p.at(locate(p.path) if locate else None) for p in every.problems)
    paths = [
        ".".join([unit.path, *map(str, path)])
        for unit, template in every.templates.items()
        for path in template.axes
    ]
    paths += [name for name in graph.nodes if name not in paths]
    for number, pattern in enumerate(train.trainable or ()):
        problems += _unmatched(("train", "trainable", number), pattern, paths)
    for name, group in train.groups.items():
        for number, pattern in enumerate(group.paths):
            problems += _unmatched(("train", "groups", name, "paths", number), pattern, paths)
    axes = {axis for t in every.templates.values() for names in t.axes.values() for axis in names}
    known = {*PARAMS, *(axis for axis in axes if axis)}
    tables: list[tuple[tuple[str, ...], Any]] = [(("mesh",), mesh)]
    tables += [(("mesh", "components", name), own) for name, own in mesh.components.items()]
    for path, rules in tables:
        problems += _unknown((*path, "params"), rules.params, known)
        problems += _unknown((*path, "activations"), rules.activations, {*ACTIVATIONS, "embed"})
    if problems:
        raise ConfigError(p.at(locate(p.path) if locate else None) for p in problems)


def _unmatched(
    path: tuple[str | int, ...], pattern: str, paths: Iterable[str]
) -> Iterator[Problem]:
    if any(matches(name, pattern) for name in paths):
        return
    prefixes = {
        ".".join(steps[:count])
        for steps in (name.split(".") for name in paths)
        for count in range(1, len(steps) + 1)
    }
    yield Problem(
        path,
        "no parameter has this path",
        found=pattern,
        expected="a parameter path, the start of one, or a glob",
        nearest=tuple(get_close_matches(pattern, sorted(prefixes), n=3, cutoff=0.5)),
    )


def _components(graph: Graph) -> Iterator[Problem]:
    """Components that are not declared, layers of those that have none, and of losses more than
    what runs them."""
    nodes = {n.name: n for n in graph.nodes.values() if n.repeat is None and n.role != "modality"}
    losses = [f"{LOSSES}{name}" for name in graph.experiment.losses]
    for name, own in graph.experiment.mesh.components.items():
        path = ("mesh", "components", name)
        if name not in nodes and name not in losses:
            yield unknown_component(name, (*nodes, *losses))
            continue
        if name in losses:
            for field in own.model_fields_set - {"kernel"}:
                message = "of a loss only what runs it can be said"
                yield Problem((*path, field), message, field, "kernel")
            continue
        spec = nodes[name].spec
        if own.remat is not None and not isinstance(spec, StackSpec):
            message = f"{spec.type} has no layers that could be computed again"
            yield Problem((*path, "remat"), message, own.remat, "remat: of a stack")
        if own.layers is not None and not isinstance(spec, Layered):
            message = f"{spec.type} has no layers"
            yield Problem((*path, "layers"), message, own.layers, "layers: of a stack")


def _unknown(path: Path, rules: Iterable[str], known: set[str]) -> Iterator[Problem]:
    for axis in rules:
        if axis not in known:
            yield Problem(
                (*path, axis),
                "no array has an axis of this name",
                found=axis,
                expected="one of " + ", ".join(sorted(known)),
                nearest=nearest(axis, known),
            )

"""What does not mean the same in microbatches: refused, all at once, before anything is run."""

from collections.abc import Iterator
from math import prod
from typing import Any

import jax

from fusekit.batch import blank
from fusekit.component import Component
from fusekit.config.tree import Path
from fusekit.context import DTYPES, Context
from fusekit.errors import ConfigError, Problem
from fusekit.graph.graph import Graph, Locate
from fusekit.graph.node import root
from fusekit.graph.recompute import events_of
from fusekit.jaxprs import Sliced
from fusekit.layout import ACTIVATIONS
from fusekit.model import FusionModel
from fusekit.objective import read_by, walked
from fusekit.states import still
from fusekit.walk.values import State


def check_microbatches(graph: Graph, locate: Locate | None = None) -> None:
    """Raises `ConfigError` if `mesh.microbatches` does not divide the batch, or for what
    `coupled` finds. Costs nothing without microbatches."""
    if graph.experiment.mesh.microbatches == 1 or not graph.losses:
        return
    problems = [*_batch(graph), *coupled(FusionModel(graph))]
    if problems:
        raise ConfigError(p.at(locate(p.path) if locate else None) for p in problems)


def coupled(model: FusionModel) -> list[Problem]:
    """The nodes and losses of the stage that compute something else in microbatches: they couple
    samples in training, or have statistics that depend on the batch."""
    why = dict(_coupled(model))
    moved = dict.fromkeys(_moved(model), "its statistics depend on the batch")
    return [_refused(path, reason) for path, reason in {**moved, **why}.items()]


def _batch(graph: Graph) -> Iterator[Problem]:
    """Axes of the size -1 are not known here: `parted` checks again."""
    mesh, rows = graph.experiment.mesh, graph.experiment.train.batch
    axes: Any = mesh.activations.get("batch", ACTIVATIONS["batch"]) or ()
    sizes = [getattr(mesh, axis) for axis in ((axes,) if isinstance(axes, str) else axes)]
    due = mesh.microbatches * prod(size for size in sizes if size > 0)
    if rows % due:
        yield Problem(
            ("train", "batch"),
            "the batch does not divide into microbatches over the mesh",
            found=f"{rows}, of mesh.microbatches: {mesh.microbatches}",
            expected=f"a multiple of {due}",
        )


def _refused(path: Path, why: str) -> Problem:
    return Problem(
        path,
        f"a part of a batch does not mean the same to it: {why}",
        expected="mesh.microbatches: 1, or settings that do not couple samples in training",
    )


def _coupled(model: FusionModel) -> Iterator[tuple[Path, str]]:
    """Nodes and losses of the stage that couple samples in training, and why."""
    graph = model.graph
    items = model.needed(read_by(graph.losses))
    used = {event.node for item in items for event in events_of(item)}
    nodes = [root(graph.nodes, node) for name, node in graph.nodes.items() if name in used]
    found: list[tuple[Path, Component]] = [(node.path, node.spec) for node in nodes]
    found += [(("losses", name), one.spec) for name, one in graph.losses.items()]
    for path, spec in found:
        if spec.coupling() != "none":
            yield path, spec.couples_because or "it couples samples"


def _moved(model: FusionModel) -> list[Path]:
    """Nodes and losses with variables that a step sets by what the batch holds."""
    graph, train = model.graph, model.graph.experiment.train
    params, variables = model.abstract()
    moving = {n for n, tree in variables.items() if jax.tree.leaves(tree)} - still(model, train)
    if not moving:
        return []
    context = Context(mode="train", key=jax.random.key(0), dtype=DTYPES[train.compute])

    def after(params: State, variables: State, batch: Any) -> State:
        return walked(model, params, variables, batch, context)[1]

    sliced = Sliced(after, params, variables, blank(model, 2))
    found: dict[Path, None] = {}
    for name in sorted(moving):
        if sliced.depends(lambda out, name=name: out[name], on=2):
            node = model.groups[name].units[0].node
            loss = node.removeprefix("losses.")
            path = ("losses", loss) if loss != node else root(graph.nodes, graph.nodes[node]).path
            found[path] = None
    return list(found)

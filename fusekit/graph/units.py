"""Units: the modules of a graph and where their parameters live.

A unit is a node's own module (`image`), one of its layers (`image.layers.3`) or a loss
(`losses.align`). Its canonical path depends on nothing but the declaration. The program may hold
the parameters of several layers stacked in one group; `Packing` translates.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from fusekit.component import OperatorSpec, StackSpec
from fusekit.errors import Problem
from fusekit.graph.graph import Graph
from fusekit.graph.infer import split_inputs
from fusekit.graph.node import Node, root
from fusekit.graph.replaced import Layer, replaced
from fusekit.graph.unit import END, Template, UnitId, alike
from fusekit.layered import Replaceable

EMPTY: Mapping[int, Any] = {}


@dataclass(frozen=True)
class Tied:
    """A unit of a part whose parameters are another's."""

    owner: UnitId
    template: Template


@dataclass(frozen=True)
class Units:
    """All units of a graph.

    Args:
      templates: of those that have parameters of their own, by their canonical paths.
      tied: those of parts that run with the parameters of others.
      origins: of units of parts that begin as copies of others, these.
      averages: of units whose parameters are averages of others', by what is kept at each step.
      problems: units of parts that do not fit the parameters that they are tied to.
    """

    templates: dict[UnitId, Template]
    tied: dict[UnitId, Tied] = field(default_factory=dict)
    origins: dict[UnitId, UnitId] = field(default_factory=dict)
    averages: dict[UnitId, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def owner(self, unit: UnitId) -> UnitId:
        """Whose parameters a unit has."""
        return self.tied[unit].owner if unit in self.tied else unit

    def template(self, unit: UnitId) -> Template | None:
        """How a unit is built; `None` if there is none."""
        return self.tied[unit].template if unit in self.tied else self.templates.get(unit)


def templates(graph: Graph) -> dict[UnitId, Template]:
    """The template of every unit of the graph with parameters of its own."""
    return units(graph).templates


def units(graph: Graph) -> Units:
    """Every unit of the graph, those of losses and operators that its stage leaves away too: what
    a state holds does not depend on the stage. Layers of uniform nodes share a template."""
    if "units" not in graph.derived:
        graph.derived["units"] = _units(graph)
    return graph.derived["units"]


def _units(graph: Graph) -> Units:
    found = Units({})
    gone = replaced(graph)
    for node in graph.nodes.values():
        made = _units_of(graph, node, gone)
        owner = _owner(graph, node)
        if owner is node:
            found.templates.update(made)
        else:
            _tie(found, made, node, owner)
    for unit in found.templates:
        repeat = graph.nodes[unit.node].repeat
        if repeat is not None:
            found.origins[unit] = UnitId(repeat.of, unit.layer)
        if repeat is not None and repeat.decay is not None:
            found.averages[unit] = repeat.decay
    found.problems.extend(_idle(graph, found))
    for name, loss in graph.every_loss.items():
        inputs = graph.inputs_of.get(("loss", name, 0))
        if inputs is None:
            continue
        found.templates[UnitId(f"losses.{name}")] = Template.of(
            lambda rngs, s=loss.spec, i=inputs: s.build(i, rngs=rngs)  # pyright: ignore
        )
    if graph.whole is not None:
        idle = units(graph.whole)
        found.templates.update(
            {u: t for u, t in idle.templates.items() if u not in found.templates}
        )
        found.origins.update(idle.origins)
        found.averages.update(idle.averages)
    return found


def _owner(graph: Graph, node: Node) -> Node:
    """The node that has the parameters with which a node runs."""
    while node.repeat is not None and not node.repeat.own:
        node = graph.nodes[node.repeat.of]
    return node


def _tie(found: Units, made: dict[UnitId, Template], node: Node, owner: Node) -> None:
    """Ties units of a part to those of the owner. What only parts run has its path too."""
    for unit, template in made.items():
        theirs = UnitId(owner.name, unit.layer)
        first = found.templates.setdefault(theirs, template)
        found.tied[unit] = Tied(theirs, template)
        mine, due = (_shapes(t) for t in (template, first))
        if mine != due:
            unlike = [name for name in {**due, **mine} if due.get(name) != mine.get(name)]
            shown = ", ".join(
                f"{n} {mine.get(n, 'none')}, not {due.get(n, 'none')}" for n in unlike
            )
            message = f"weights of {owner.name} do not fit {node.name}, which is tied to them"
            expected = "inputs of the sizes that the original has, or weights: start"
            found.problems.append(Problem(node.path, message, shown, expected))
            return


def _idle(graph: Graph, found: Units) -> Iterator[Problem]:
    """Averages of what nothing runs."""
    for unit in found.averages:
        origin = found.owner(found.origins[unit])
        if origin not in found.templates:
            message = f"{unit.path} is an average of {origin.path}, which nothing runs"
            yield Problem(graph.nodes[unit.node].path, message, expected="a loss that reads it")


def _shapes(template: Template) -> dict[str, str]:
    """The shapes of parameters and variables by path, as text."""
    leaves = jax.tree_util.tree_leaves_with_path((template.params, template.variables))
    return {
        ".".join(str(getattr(step, "key", "")) for step in path[1:]): str(list(leaf.shape))
        for path, leaf in leaves
    }


def _units_of(
    graph: Graph, node: Node, gone: dict[Layer, frozenset[str]]
) -> dict[UnitId, Template]:
    """The templates of one node's units, layers without the sublayers that are `gone`."""
    found: dict[UnitId, Template] = {}
    name, spec = node.name, node.spec
    if isinstance(spec, StackSpec):
        inputs = graph.inputs_of.get(("start", name, 0))
        if inputs is not None:
            found[UnitId(name)] = Template.of(lambda rngs: spec.build(inputs, rngs=rngs))
        read = [k for k in range(spec.layers()) if ("layer", name, k) in graph.inputs_of]
        first = root(graph.nodes, node).name
        less = {k: gone[first, k] for k in read if gone[first, k]}
        kinds = {k: (spec.layer_kind(k), less.get(k)) for k in read}
        _layers(found, node, read, _stack_layer(graph, node, less), kinds)
        end = graph.inputs_of.get(("end", name, 0))
        if end is not None:
            template = _template(lambda rngs: spec.build_end(end["stream"], rngs=rngs))
            if template is not None:
                found[UnitId(name, END)] = template
    elif isinstance(spec, OperatorSpec) and node.places:
        inputs = graph.inputs_of.get(_operator_inputs(graph, node))
        if inputs is not None:
            streams, reads = split_inputs(inputs)
            found[UnitId(name)] = Template.of(
                lambda rngs: spec.build_operator(streams, reads, rngs=rngs)
            )
            acting = [
                place
                for place in range(len(node.places))
                if _operator_inputs(graph, node, place) in graph.inputs_of
            ]
            _layers(found, node, acting, _operator_layer(graph, node))
    elif ("call", name, 0) in graph.inputs_of:
        inputs = graph.inputs_of["call", name, 0]
        found[UnitId(name)] = Template.of(lambda rngs: spec.build(inputs, rngs=rngs))
    return found


Build = Callable[[int, nnx.Rngs], nnx.Module | None]


def _stack_layer(graph: Graph, node: Node, gone: dict[int, frozenset[str]]) -> Build:
    spec = node.spec
    assert isinstance(spec, StackSpec)

    def build(index: int, rngs: nnx.Rngs) -> nnx.Module:
        stream = graph.inputs_of["layer", node.name, index]["stream"]
        layer = spec.build_layer(index, stream, rngs=rngs)
        if index in gone and isinstance(layer, Replaceable):
            layer.drop(gone[index])
        return layer

    return build


def _operator_inputs(graph: Graph, node: Node, place: int = 0) -> tuple[str, str, int]:
    entering = ("enter", node.name, place)
    return entering if entering in graph.inputs_of else ("leave", node.name, place)


def _operator_layer(graph: Graph, node: Node) -> Build:
    spec = node.spec
    assert isinstance(spec, OperatorSpec)

    def build(index: int, rngs: nnx.Rngs) -> nnx.Module | None:
        if spec.share:
            return None
        streams, reads = split_inputs(graph.inputs_of[_operator_inputs(graph, node, index)])
        return spec.build_layer(index, streams, reads, rngs=rngs)

    return build


def _layers(
    found: dict[UnitId, Template],
    node: Node,
    indices: Iterable[int],
    build: Build,
    kinds: Mapping[int, Any] = EMPTY,
) -> None:
    """Adds a node's layers; those that are alike share a template. Of a node that promises to be
    uniform only the first and the last layer of each kind are built to see it."""
    by_kind: dict[Any, list[int]] = {}
    for index in indices:
        by_kind.setdefault(kinds.get(index), []).append(index)
    distinct: list[Template] = []

    def template(index: int) -> Template | None:
        made = _template(lambda rngs: build(index, rngs))
        if made is None:
            return None
        known = next((one for one in distinct if alike(one, made)), None)
        if known is None:
            distinct.append(made)
        return known or made

    for every in by_kind.values():
        ends = {index: template(index) for index in every[:1] + every[-1:]}
        uniform = getattr(node.spec, "uniform", False) and len(set(map(id, ends.values()))) == 1
        for index in every:
            made = ends[every[0]] if uniform else ends.get(index) or template(index)
            if made is not None:
                found[UnitId(node.name, index)] = made


def _template(build: Callable[[nnx.Rngs], nnx.Module | None]) -> Template | None:
    """The template of what may turn out to be nothing."""
    made: list[bool] = []

    def one(rngs: nnx.Rngs) -> nnx.Module:
        module = build(rngs)
        made.append(module is not None)
        return nnx.Module() if module is None else module

    result = Template.of(one)
    return result if made[0] else None

"""The graph of an experiment: nodes and streams, no arrays.

`resolve` orders layers, infers every width, checks the wiring, and reports every error at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusekit.component import LossSpec, MetricSpec, NodeSpec
from fusekit.errors import ConfigError, Position, Problem, nearest
from fusekit.graph.events import Ordering, order
from fusekit.graph.infer import Given, Inference
from fusekit.graph.node import Event, Key, Node, Objective, Read, Role
from fusekit.graph.wiring import BATCH, Wiring
from fusekit.stream import Signature

if TYPE_CHECKING:
    from fusekit.config.spec import Experiment

Locate = Callable[[tuple[str | int, ...]], Position | None]

RESERVED = (BATCH, "losses", "valid")


@dataclass(frozen=True)
class Graph:
    """A checked experiment, ready to be compiled.

    Args:
      experiment: what was declared.
      nodes: by name; modalities and views as `batch.<name>`.
      losses, metrics: with their wires.
      events: everything the model does, in order.
      signatures: of every value.
      inputs_of: the signatures that came in, by (event kind, node, index).
    """

    experiment: "Experiment"
    nodes: dict[str, Node]
    losses: dict[str, Objective]
    metrics: dict[str, Objective]
    events: tuple[Event, ...]
    signatures: dict[Key, Given] = field(repr=False)
    inputs_of: dict[tuple[str, str, int], dict[str, Signature]] = field(repr=False)

    @property
    def heads(self) -> dict[str, Node]:
        return {name: node for name, node in self.nodes.items() if node.role == "head"}

    @property
    def inputs(self) -> dict[str, Node]:
        """The entries that a batch holds."""
        batch = {e.node for e in self.events if e.kind == "batch"}
        return {
            name.removeprefix(f"{BATCH}."): node
            for name, node in self.nodes.items()
            if name in batch
        }

    def outputs_of(self, name: str) -> tuple[Read, ...]:
        """What a node gives at its end: one read, or one a point."""
        node = self.nodes[name]
        if node.role == "head" and node.points:
            return tuple(Read(Key("point", name, k)) for k in range(node.points))
        return (Read(Key("out", name)),)


def resolve(experiment: "Experiment", locate: Locate | None = None) -> Graph:
    """Checks an experiment and orders its layers. Raises `ConfigError` with every problem."""
    nodes = _nodes(experiment)
    wiring = Wiring(nodes, experiment.modalities)
    wiring.problems.extend(_reserved(experiment))
    for node in nodes.values():
        wiring.places(node)
    for node in nodes.values():
        wiring.node(node)
    losses = _objectives(experiment.losses, "losses", wiring)
    metrics = _objectives(experiment.metrics, "metrics", wiring)
    wiring.problems.extend(_unused(nodes, wiring.used, wiring.missing))
    problems = wiring.problems
    events: tuple[Event, ...] = ()
    inference = Inference(nodes)
    if not problems:
        events = order(Ordering(nodes), _wanted(nodes, losses, metrics), problems.append)
        problems.extend(_unreached(nodes, events))
    if not problems:
        inference.run(events)
        for section, objectives in (("losses", losses), ("metrics", metrics)):
            for name, objective in objectives.items():
                inference.objective(objective, (section, name))
        problems.extend(inference.problems)
    if problems:
        raise ConfigError(
            p.at(p.position or (locate(p.path) if locate else None)) for p in problems
        )
    return Graph(experiment, nodes, losses, metrics, events, inference.signatures, inference.inputs)


def _nodes(experiment: "Experiment") -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    sections: list[tuple[Role, str, Mapping[str, NodeSpec]]] = [
        ("modality", f"{BATCH}.", experiment.modalities),
        ("encoder", "", experiment.encoders),
        ("fusion", "", experiment.fusion),
        ("head", "", experiment.heads),
    ]
    for role, prefix, specs in sections:
        for name, spec in specs.items():
            nodes[prefix + name] = Node(prefix + name, role, spec)
    return nodes


def _reserved(experiment: "Experiment") -> list[Problem]:
    found: list[Problem] = []
    for section in ("modalities", "encoders", "fusion", "heads"):
        for name in getattr(experiment, section):
            if name in RESERVED:
                found.append(Problem((section, name), f"{name} is a reserved name", name))
    return found


def _objectives(
    specs: Mapping[str, LossSpec] | Mapping[str, MetricSpec], section: str, wiring: Wiring
) -> dict[str, Objective]:
    objectives: dict[str, Objective] = {}
    for name, spec in specs.items():
        objectives[name] = Objective(name, spec)
        wiring.wire(objectives[name], (section, name))
    return objectives


def _unused(nodes: dict[str, Node], used: set[str], missing: set[str]) -> list[Problem]:
    """A declared name that nothing uses is an error, since a misspelt use looks just so."""
    found: list[Problem] = []
    known = {name.removeprefix(f"{BATCH}.") for name in nodes}
    for name, node in nodes.items():
        if name in used or node.spec.keep or node.places:
            continue
        bare = name.removeprefix(f"{BATCH}.")
        found.append(
            Problem(
                node.path,
                f"nothing uses {name}",
                found=f"{node.role} {name.removeprefix(f'{BATCH}.')} ({node.spec.type})",
                expected="a reference to it, or keep: true",
                nearest=nearest(bare, missing | {n for n in known if n != bare}),
            )
        )
    return found


def _unreached(nodes: dict[str, Node], events: tuple[Event, ...]) -> list[Problem]:
    """Operators none of whose edits is read."""
    reached = {event.node for event in events}
    return [
        Problem(
            (*node.path, "into"),
            f"nothing reads what {name} edits",
            found=", ".join(f"{stack}@{layer}" for stack, layer in node.places[-1].stacks),
            expected="a loss, metric or head that depends on these layers",
        )
        for name, node in nodes.items()
        if node.places and name not in reached
    ]


def _wanted(
    nodes: dict[str, Node], losses: dict[str, Objective], metrics: dict[str, Objective]
) -> list[Key]:
    """The values to compute: heads, what objectives read, and what is kept for its own sake."""
    wanted: list[Key] = []
    for name, node in nodes.items():
        if node.role == "head" and node.points:
            wanted.extend(Key("point", name, k) for k in range(node.points))
        elif node.role == "head" or (node.spec.keep and not node.places):
            wanted.append(Key("out", name))
    for objective in (*losses.values(), *metrics.values()):
        wanted.extend(read.key for wire in objective.wires.values() for read in wire.reads)
    return wanted

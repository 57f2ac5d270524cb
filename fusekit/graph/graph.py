"""The graph of an experiment: nodes and streams, no arrays.

`resolve` orders layers, infers every width, checks the wiring, and reports every error at once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusekit.component import LossSpec, MetricSpec, NodeSpec
from fusekit.config.frozen import FrozenDict
from fusekit.errors import ConfigError, Position, Problem
from fusekit.graph.events import Ordering, order
from fusekit.graph.infer import Given, Inference
from fusekit.graph.node import BATCH, Event, Key, Node, Objective, Read, Role
from fusekit.graph.parts import Parts
from fusekit.graph.use import (
    leave_away,
    meant_of,
    misnamed,
    not_in,
    read_of,
    unreached,
    unused,
    unused_parts,
    wanted_of,
)
from fusekit.graph.wiring import Wiring
from fusekit.graph.written import Path, Written, kept_of, untimely, writes_of
from fusekit.stream import Signature

if TYPE_CHECKING:
    from fusekit.config.spec import Experiment
    from fusekit.config.train import Train

Locate = Callable[[tuple[str | int, ...]], Position | None]

RESERVED = (BATCH, "losses", "valid")


@dataclass(frozen=True)
class Graph:
    """A checked experiment, ready to be compiled.

    Args:
      experiment: what was declared.
      nodes: by name; modalities and views as `batch.<name>`, those of parts as `<part>.<name>`.
      losses, metrics: with their wires; those that the stage `experiment.train` names.
      every_loss: all that are declared.
      whole: the graph with the operators that the stage leaves away; `None` if it leaves none.
      events: everything the model does, in order.
      signatures: of every value.
      inputs_of: the signatures that came in, by (event kind, node, index).
      derived: what others make of it and keep here, such as its units.
    """

    experiment: "Experiment"
    nodes: dict[str, Node]
    losses: dict[str, Objective]
    metrics: dict[str, Objective]
    events: tuple[Event, ...]
    signatures: dict[Key, Given] = field(repr=False)
    inputs_of: dict[tuple[str, str, int], dict[str, Signature]] = field(repr=False)
    every_loss: dict[str, Objective] = field(default_factory=dict, repr=False)
    whole: "Graph | None" = field(default=None, repr=False)
    derived: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def heads(self) -> dict[str, Node]:
        """The declared ones."""
        return {
            name: node
            for name, node in self.nodes.items()
            if node.role == "head" and node.repeat is None
        }

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
    wiring = Wiring(nodes, experiment.modalities, experiment.parts)
    parts = Parts(wiring, experiment.parts)
    wiring.place()
    parts.place()
    wiring.all()
    parts.wire()
    every_loss = _objectives(experiment.losses, "losses", wiring)
    every_metric = _objectives(experiment.metrics, "metrics", wiring)
    writes, kept = writes_of(experiment), kept_of(experiment)
    stored, others = _written(writes, wiring), _written(kept, wiring)
    train = experiment.train
    losses = {} if stored else _chosen(every_loss, losses_of(train))
    metrics = stored or _chosen(every_metric, train.metrics)
    problems = [*wiring.problems, *_reserved(experiment)]
    problems += leave_away(nodes, train.without, {"losses": losses, "metrics": metrics})
    ordering = Ordering(nodes)
    wanted = wanted_of(nodes, losses, metrics)
    if train.unread:
        needs = order(ordering, read_of(losses, metrics), lambda _: None)
        problems += untimely(experiment, {event.node for event in needs})
    events = order(ordering, wanted, problems.append)
    problems += unused(nodes, wiring.used | wiring.meant)
    problems += unused_parts(experiment.parts, wiring.used)
    more = wanted_of(nodes, every_loss, {**every_metric, **others})
    more = [key for key in more if not nodes[key.node].idle]
    more += meant_of(nodes, wiring.meant)
    meant = order(ordering, more, problems.append, events)
    problems += unreached(nodes, (*events, *meant))
    every = (*events, *meant)
    every += order(ordering, not_in(nodes, every), problems.append, every)
    inference = Inference(nodes)
    inference.run(every)
    for section, objectives in (("losses", every_loss), ("metrics", every_metric)):
        for name, objective in objectives.items():
            inference.objective(objective, (section, name))
    for entries, objectives in ((writes, stored), (kept, others)):
        for name, objective in objectives.items():
            inference.objective(objective, entries[name][0])
    problems += inference.problems
    if problems:
        problems += misnamed(experiment, nodes)
        raise ConfigError(in_order(problems, locate))
    _trim(nodes, events)
    whole = None
    if train.without:
        acting = train.model_copy(update={"without": (), "losses": None, "tasks": FrozenDict()})
        whole = resolve(experiment.model_copy(update={"train": acting}), locate)
    signatures, inputs = inference.signatures, inference.inputs
    return Graph(experiment, nodes, losses, metrics, events, signatures, inputs, every_loss, whole)


def _written(entries: Mapping[str, tuple[Path, Written]], wiring: Wiring) -> dict[str, Objective]:
    """What a stage stores, or other stages read."""
    found = {name: Objective(name, spec) for name, (_, spec) in entries.items()}
    for name, objective in found.items():
        path, spec = entries[name]
        if spec.into is not None and spec.into.of is not None:
            message = "a view is made of another modality, so nothing is stored as it"
            wiring.problems.append(Problem(path, message, name, "a modality that is no view"))
        wiring.wire(objective, path)
    return found


def losses_of(train: "Train") -> tuple[str, ...] | None:
    """The names of the losses of a stage, of all its tasks together; `None`: all."""
    if not train.tasks:
        return train.losses
    return tuple(dict.fromkeys(name for task in train.tasks.values() for name in task.losses))


def _chosen(
    objectives: dict[str, Objective], names: tuple[str, ...] | None
) -> dict[str, Objective]:
    return {name: o for name, o in objectives.items() if names is None or name in names}


def in_order(problems: Iterable[Problem], locate: Locate | None) -> list[Problem]:
    """The problems with their positions, those of the file that was named first."""
    found = [p.at(p.position or (locate(p.path) if locate else None)) for p in problems]
    main = locate(()) if locate else None
    places = [p.position for p in found]
    files = list(dict.fromkeys(at.file for at in (main, *places) if at))

    def rank(problem: Problem) -> tuple[int, int, int]:
        at = problem.position
        return (files.index(at.file), at.line, at.column) if at else (-1, 0, 0)

    return sorted(found, key=rank)


def _trim(nodes: dict[str, Node], events: tuple[Event, ...]) -> None:
    """Takes away the places of operators that act on layers which nothing reads."""
    last: dict[str, int] = {}
    for event in events:
        if event.kind == "leave":
            last[event.node] = max(last.get(event.node, 0), event.index)
    for name, index in last.items():
        nodes[name].places = nodes[name].places[: index + 1]


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

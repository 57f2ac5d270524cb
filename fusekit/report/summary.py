"""What an experiment is, as plain data: the model behind `check`, `show` and the diagrams."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusekit.component import LossSpec, OperatorSpec, StackSpec
from fusekit.graph.graph import Graph
from fusekit.graph.node import Key, Node, Objective, Read, Wire
from fusekit.graph.units import templates
from fusekit.report import numbers
from fusekit.report.parameters import Count, count_parameters
from fusekit.stream import Signature

if TYPE_CHECKING:
    from fusekit.graph.graph import Given

SECTION = {"modality": "modalities", "encoder": "encoders", "fusion": "fusion", "head": "heads"}


@dataclass(frozen=True)
class Edge:
    """Something read: the node it comes from, the layers if points are read, and the ports."""

    source: str
    role: str
    text: str
    layers: tuple[int, ...] = ()
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Touch:
    """Layers of a stack at which an operator acts."""

    operator: str
    stack: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One declared component.

    Args:
      section: of the config.
      name: of the entry; modalities without `batch.`.
      key: the name that edges use; modalities are `batch.<name>`, losses `losses.<name>`.
      type: of the component; of a part, what its weights are.
      reads: what comes in.
      gives: what comes out, by port; its own value is the port ``, of operators one a stack.
      depth: layers of a stack that are built, or places of an operator.
      declared: layers of a stack, those included that nothing reads and that are not built.
      count: parameters.
      flops: for one sample forward; `None` where not counted.
      touches: of an operator, what it edits; of a stack, by whom it is edited.
      note: anything else worth a word, such as a loss's weight.
    """

    section: str
    name: str
    key: str
    type: str
    reads: tuple[Edge, ...] = ()
    gives: tuple[tuple[str, str], ...] = ()
    depth: int = 0
    count: Count = field(default_factory=Count)
    flops: int | None = None
    touches: tuple[Touch, ...] = ()
    note: str = ""
    declared: int = 0

    @property
    def layers(self) -> str:
        """How many layers a stack has, or of how many it is built; nothing for what is none."""
        if self.section != "encoders" or not max(self.depth, self.declared):
            return ""
        if self.depth < self.declared:
            return f"{self.depth} of {numbers.plural(self.declared, 'layer')}"
        return numbers.plural(self.depth, "layer")

    @property
    def state(self) -> str:
        """`frozen`, `partly frozen` or nothing."""
        if not self.count.parameters or self.count.trainable == self.count.parameters:
            return ""
        return "partly frozen" if self.count.trainable else "frozen"


@dataclass(frozen=True)
class Summary:
    """All entries of an experiment in the order of the file, and what they add up to."""

    title: str
    entries: tuple[Entry, ...]
    training: str = ""

    def section(self, name: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.section == name)

    @property
    def count(self) -> Count:
        return sum((entry.count for entry in self.entries), Count())

    @property
    def flops(self) -> int | None:
        known = [entry.flops for entry in self.entries if entry.flops is not None]
        return sum(known) if known else None

    @property
    def layers(self) -> int:
        return sum(entry.depth for entry in self.section("encoders"))

    def counts(self) -> str:
        """One line: modalities, nodes, layers, parameters."""
        nodes = sum(len(self.section(s)) for s in ("encoders", "fusion", "heads"))
        words = [
            numbers.plural(len(self.section("modalities")), "modality"),
            numbers.plural(nodes, "node"),
            numbers.plural(self.layers, "layer"),
            f"{numbers.short(self.count.parameters)} parameters",
        ]
        if self.count.trainable != self.count.parameters:
            words[-1] += f" ({numbers.short(self.count.trainable)} trainable)"
        return ", ".join(words)


def summarise(graph: Graph, *, flops: bool = False, title: str = "") -> Summary:
    """The summary of a graph. Allocates no weight; with `flops` the model is traced, abstractly."""
    experiment = graph.experiment
    priced: Mapping[str, int] = {}
    if flops:
        from fusekit.model import FusionModel
        from fusekit.report.flops import node_flops

        model = FusionModel(graph, scan=2)
        units, priced = model.templates, node_flops(model)
    else:
        units = templates(graph)
    counts = count_parameters(units, _frozen(graph))
    entries = [
        _node(graph, node, counts.get(name, Count()), priced)
        for name, node in graph.nodes.items()
        if node.repeat is None
    ]
    entries += [_part(graph, name, counts, priced) for name in experiment.parts]
    for section, objectives in (("losses", graph.losses), ("metrics", graph.metrics)):
        for name, objective in objectives.items():
            count = counts.get(f"losses.{name}", Count())
            entries.append(_objective(graph, section, objective, count))
    for name, spec in experiment.data.items():
        entries.append(Entry("data", name, f"data.{name}", spec.type))
    return Summary(title or experiment.meta.name or "experiment", tuple(entries), _training(graph))


def _frozen(graph: Graph) -> Callable[[str], bool]:
    """Says for a canonical parameter path whether training leaves it alone."""
    averages = tuple(
        f"{name}."
        for name, part in graph.experiment.parts.items()
        if not isinstance(part.weights, str)
    )
    if graph.experiment.train.trainable is None:
        return lambda path: path.startswith(averages)
    from fusekit.train.optimizer import FROZEN, labeller

    label = labeller(graph.experiment.train)
    return lambda path: path.startswith(averages) or label(path) == FROZEN


def _training(graph: Graph) -> str:
    train = graph.experiment.train
    length = f"{train.epochs:g} epochs" if train.steps is None else f"{train.steps} steps"
    return f"{train.optimizer.type}, {length} of {train.batch} rows, {train.compute}"


def _node(graph: Graph, node: Node, count: Count, priced: Mapping[str, int]) -> Entry:
    spec = node.spec
    depth = _built(graph, node.name) if isinstance(spec, StackSpec) else len(node.places)
    touches = tuple(_touches(graph, node))
    if isinstance(spec, StackSpec):
        touches = tuple(
            touch
            for other in graph.nodes.values()
            for touch in _touches(graph, other)
            if touch.stack == node.name
        )
    return Entry(
        SECTION[node.role],
        node.name.removeprefix("batch."),
        node.name,
        spec.type,
        reads=_edges(graph, node.wires),
        gives=_gives(graph, node),
        depth=depth,
        count=count,
        flops=priced.get(node.name, 0) if priced and node.role != "modality" else None,
        touches=touches,
        declared=spec.layers() if isinstance(spec, StackSpec) else 0,
    )


def _built(graph: Graph, stack: str) -> int:
    """How many layers of a stack are run: those that something reads, and those before them."""
    given = (key for event in graph.events for key in event.gives if key.node == stack)
    return len({key.index for key in given if key.kind in ("layer", "raw") and key.index >= 0})


def _part(graph: Graph, name: str, counts: Mapping[str, Count], priced: Mapping[str, int]) -> Entry:
    """A part as one entry, whatever it runs."""
    part = graph.experiment.parts[name]
    own = [n for n in graph.nodes.values() if n.repeat is not None and n.repeat.part == name]
    reads = [read for node in own for wire in node.wires.values() for read in wire.reads]
    reads += [read for node in own for read in node.given.values()]
    edges = dict.fromkeys(_edge(graph, read) for read in reads)
    ends = [
        n for n in own if n.role == "head" or n.name.removeprefix(f"{name}.") in map(str, part.of)
    ]
    weights = part.weights if isinstance(part.weights, str) else f"average, {part.weights.decay:g}"
    return Entry(
        "parts",
        name,
        name,
        f"{weights} weights",
        reads=tuple(edge for edge in edges if edge.source != name),
        gives=tuple(
            (n.name.removeprefix(f"{name}."), t) for n in ends for _, t in _gives(graph, n)[:1]
        ),
        count=sum((counts.get(n.name, Count()) for n in own), Count()),
        flops=sum(priced.get(n.name, 0) for n in own) if priced else None,
        note=f"runs {', '.join(n.name.removeprefix(f'{name}.') for n in own)}",
    )


def _edge(graph: Graph, read: Read) -> Edge:
    """What a part reads of something else, by its own name."""
    key = read.key
    point = "" if key.kind == "out" else f"@{'input' if key.index < 0 else key.index}"
    text = key.node + point + "".join(f".{port}" for port in read.ports)
    points = (key.index,) if point else ()
    return Edge(_shown(graph, key.node), text, text, points, read.ports)


def _shown(graph: Graph, name: str) -> str:
    """The entry that stands for a node: of a part's, the part."""
    repeat = graph.nodes[name].repeat
    return name if repeat is None else repeat.part


def _objective(graph: Graph, section: str, objective: Objective, count: Count) -> Entry:
    spec = objective.spec
    weight = spec.weight if isinstance(spec, LossSpec) else 1.0
    return Entry(
        section,
        objective.name,
        f"{section}.{objective.name}",
        spec.type,
        reads=_edges(graph, objective.wires),
        count=count if section == "losses" else Count(),
        note=f"weight {weight:g}" if weight != 1 else "",
    )


def _edges(graph: Graph, wires: Mapping[str, Wire]) -> tuple[Edge, ...]:
    """One edge a reference and source node; several points of a stack are one edge."""
    edges: list[Edge] = []
    for role, wire in wires.items():
        sources = dict.fromkeys(read.key.node for read in wire.reads)
        for source in sources:
            reads = [read for read in wire.reads if read.key.node == source]
            points = tuple(point for r in reads if (point := _point(r)) is not None)
            ports = tuple(port for port in reads[0].ports if not port.startswith("@"))
            edges.append(Edge(_shown(graph, source), role, str(wire.reference), points, ports))
    return tuple(edges)


def _point(read: Read) -> int | None:
    """The layer that is read, or the step of a chain, which is a port of its own; or none."""
    if read.key.kind in ("layer", "point"):
        return read.key.index
    return next((int(port[1:]) for port in read.ports if port.startswith("@")), None)


def _touches(graph: Graph, node: Node) -> list[Touch]:
    """What an operator edits, stack by stack."""
    if not isinstance(node.spec, OperatorSpec) or not node.places:
        return []
    stacks = [stack for stack, _ in node.places[0].stacks]
    if node.repeat is not None:
        return []
    return [
        Touch(node.name, _shown(graph, stack), tuple(place.stacks[n][1] for place in node.places))
        for n, stack in enumerate(stacks)
    ]


def _gives(graph: Graph, node: Node) -> tuple[tuple[str, str], ...]:
    """(port, signature as text); nothing for what the graph did not infer."""
    if node.places:
        stacks = [stack for stack, _ in node.places[0].stacks]
        out = [(stack, graph.signatures.get(Key("out", stack))) for stack in stacks]
        ports = graph.signatures.get(Key("ports", node.name, 0))
        extra = _ports(ports) if isinstance(ports, dict) else []
        return (*((s, _text(g)) for s, g in out if isinstance(g, Signature)), *extra)
    given = graph.signatures.get(graph.outputs_of(node.name)[0].key)
    if given is None and node.role == "modality":
        given = getattr(node.spec, "signature", lambda: None)() if not node.wires else None
    if isinstance(given, dict):
        return (("", _text(given["out"])), *_ports(given))
    return () if given is None else (("", _text(given)),)


def _ports(given: "Mapping[str, Signature]") -> list[tuple[str, str]]:
    return [(port, _text(value)) for port, value in given.items() if port != "out"]


def _text(given: "Given") -> str:
    return numbers.signature(given["out"] if isinstance(given, dict) else given)

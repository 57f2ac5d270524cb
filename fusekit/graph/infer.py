"""Signatures of every value, by walking the events once; wiring faults become problems."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fusekit.component import ModalitySpec, NodeSpec, OperatorSpec, StackSpec
from fusekit.config.reference import INPUT, Reference
from fusekit.errors import Problem, WiringError, nearest
from fusekit.graph.node import BATCH, READ, Event, Key, Node, Objective, Read, Wire
from fusekit.graph.select import select_signature
from fusekit.graph.shared import unequal
from fusekit.stream import Signature

Given = Signature | dict[str, Signature]
Owner = Node | Objective
Path = tuple[str | int, ...]

WITHIN = ("edit", "state", "mid")
"""Kinds of values that have no signature."""


class Inference:
    """Walks events in order and keeps the signature of every key."""

    def __init__(self, nodes: dict[str, Node]):
        self.nodes = nodes
        self.signatures: dict[Key, Given] = {}
        self.inputs: dict[tuple[str, str, int], dict[str, Signature]] = {}
        """What came in, by (event kind, node, index); losses under ("loss", name, 0)."""
        self.problems: list[Problem] = []
        self._told: set[tuple[Path, str]] = set()

    def run(self, events: tuple[Event, ...]) -> None:
        """Infers what can be: what depends on a fault that is reported stays unknown."""
        for event in events:
            node = self.nodes[event.node]
            try:
                inputs = None if node.broken else self._inputs(event, node)
                if inputs is None:
                    self._unedited(event)
                    continue
                self.inputs[event.kind, event.node, event.index] = inputs
                self.signatures.update(self._infer(event, node.spec, inputs))
            except WiringError as error:
                self._report(error.problem, node, node.path)
                self._unedited(event)
        self.problems += unequal(self.nodes, self.inputs, self.signatures)

    def _unedited(self, event: Event) -> None:
        """After a fault of an operator, goes on as if it left the streams as they are."""
        keys = [key for key in event.gives if key.kind in ("before", "layer", "after")]
        streams = [read.key for role, read in event.reads if is_stream_role(role)]
        if event.kind in ("enter", "leave") and all(key in self.signatures for key in streams):
            values = [self.signatures[key] for key in streams]
            self.signatures.update(zip(keys, values, strict=True))

    def objective(self, objective: Objective, path: Path) -> None:
        """Checks that a loss or metric can read what it names, at every point."""
        wires = objective.wires
        known = all(r.key in self.signatures for wire in wires.values() for r in wire.reads)
        if objective.broken or not known:
            return
        for point in range(max((len(wire.reads) for wire in wires.values()), default=1)):
            reads = [(r, w.reads[min(point, len(w.reads) - 1)]) for r, w in wires.items()]
            inputs = self._read(reads, objective, path)
            if inputs is None:
                return
            try:
                objective.spec.check(inputs)
            except WiringError as error:
                self._report(error.problem, objective, path)
                return
            self.inputs["loss", objective.name, 0] = inputs

    def _report(self, problem: Problem, owner: Owner, path: Path) -> None:
        """Notes a fault at the field of the config that is to blame: of several points or places
        the first that has it."""
        field = problem.path
        if isinstance(owner, Node) and isinstance(owner.spec, OperatorSpec):
            for number, place in reversed([*enumerate(owner.spec.into or ())]):
                message, found = (
                    text.replace(f"into {number}", str(place))
                    for text in (problem.message, problem.found)
                )
                problem = replace(problem, message=message, found=found)
            if field[:1] == ("inputs",) and not owner.wires:
                field = ("into",)
        if len(field) == 2 and field[0] == "inputs":
            wire = wires_by_role(owner).get(str(field[1]))
            field = wire.field if wire else field
        repeat = owner.repeat if isinstance(owner, Node) else None
        if repeat is not None:
            if self._said(repeat.of, problem.message):
                return
            field, problem = (), replace(problem, message=f"as {owner.name}: {problem.message}")
        problem = replace(problem, path=(*path, *field))
        if (problem.path, problem.message) not in self._told:
            self._told.add((problem.path, problem.message))
            self.problems.append(problem)

    def _said(self, name: str, message: str) -> bool:
        """Whether a fault of a node is told already where it is declared."""
        path = self.nodes[name].path
        return any(path == p.path[: len(path)] and p.message == message for p in self.problems)

    def _inputs(self, event: Event, node: Node) -> dict[str, Signature] | None:
        """Signatures by role; `None` if one is unknown for a fault reported already."""
        reads = [(r, read) for r, read in event.reads if read.key.kind not in WITHIN]
        found = self._read(reads, node, node.path)
        if found is None or event.kind not in ("begin", "enter", "leave"):
            return found
        return {**found, **self._projecting(node, max(event.index, 0), found)}

    def _projecting(
        self, node: Node, place: int, streams: Mapping[str, Signature]
    ) -> dict[str, Signature]:
        """The streams that an operator edits, telling what the layers there project."""
        found: dict[str, Signature] = {}
        for number, (stack, layer) in enumerate(node.places[place].stacks):
            spec, stream = self.nodes[stack].spec, streams[f"stream{number}"]
            if isinstance(spec, StackSpec) and layer > INPUT:
                sizes = tuple(spec.projections(layer, stream).items())
                found[f"stream{number}"] = stream.with_(projections=sizes)
        return found

    def _read(
        self, reads: list[tuple[str, Read]], owner: Owner, path: Path
    ) -> dict[str, Signature] | None:
        """What reads give by role. A port that is not there is noted at the field that names it."""
        found: dict[str, Signature] = {}
        wires = wires_by_role(owner)
        for role, read in reads:
            if read.key not in self.signatures:
                continue
            try:
                found[role] = select_signature(self.signatures[read.key], read.ports, read.text)
            except WiringError as error:
                wire = wires[role.removeprefix(READ)]
                if all(problem.path != (*path, *wire.field) for problem in self.problems):
                    problem = self._own_ports(error.problem, read, wire.reference)
                    self._report(replace(problem, path=wire.field), owner, path)
        return found if len(found) == len(dict(reads)) else None

    def _own_ports(self, problem: Problem, read: Read, reference: Reference) -> Problem:
        """The problem with the ports that a component has of its own, for one that it lacks."""
        given, name, ports = self.signatures[read.key], reference.name, reference.ports
        if name == BATCH:
            name, ports = f"{BATCH}.{ports[0]}", ports[1:]
        spec = self.nodes[name].spec
        own = [*spec.port_names] if isinstance(spec, OperatorSpec) else []
        if isinstance(given, dict):
            own += [port for port in given if port != "out" and not port.startswith("@")]
        if isinstance(spec, OperatorSpec):
            found = f"{reference}, of each stream that {name} edits"
            problem = replace(problem, found=found)
        if not own or not ports:
            return problem
        return replace(
            problem,
            expected=f"{problem.expected}, or {name}'s own {', '.join(own)}",
            nearest=nearest(ports[0], [*own, *problem.nearest]),
        )

    def _infer(
        self, event: Event, spec: NodeSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        rule: Callable[..., Mapping[Key, Given]] = getattr(self, f"_{event.kind}")
        return rule(event, spec, inputs)

    def _batch(self, event: Event, spec: ModalitySpec, inputs: object) -> Mapping[Key, Given]:
        return {event.gives[0]: labelled(spec.signature(), event.node.removeprefix("batch."))}

    def _call(
        self, event: Event, spec: NodeSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        return {event.gives[0]: labelled(spec.infer(inputs), self._origin(event))}

    def _start(
        self, event: Event, spec: StackSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        return {event.gives[0]: labelled(spec.infer_start(inputs), self._origin(event))}

    def _origin(self, event: Event) -> str:
        """The label of tokens that have none: the modality read, or the node."""
        first = event.reads[0][1].key.node if event.reads else event.node
        return (first if first.startswith("batch.") else event.node).removeprefix("batch.")

    def _layer(
        self, event: Event, spec: StackSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        return {event.gives[0]: spec.infer_layer(event.index, inputs["stream"])}

    def _end(
        self, event: Event, spec: StackSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        return {event.gives[0]: spec.infer_end(inputs["stream"])}

    def _begin(self, event: Event, spec: OperatorSpec, inputs: object) -> Mapping[Key, Given]:
        return {}

    def _enter(
        self, event: Event, spec: OperatorSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        streams, reads = split_inputs(inputs)
        spec.infer_edit(streams, reads)
        befores = [key for key in event.gives if key.kind == "before"]
        return dict(zip(befores, streams, strict=True))

    def _leave(
        self, event: Event, spec: OperatorSpec, inputs: dict[str, Signature]
    ) -> Mapping[Key, Given]:
        streams, reads = split_inputs(inputs)
        given: dict[Key, Given] = {}
        after = spec.infer_edit(streams, reads)
        keys = [key for key in event.gives if key.kind in ("layer", "after")]
        given.update(zip(keys, after, strict=True))
        ports = spec.infer_ports(streams, reads)
        if ports:
            given[event.gives[-1]] = {"out": next(iter(ports.values())), **ports}
        return given


def labelled(given: Given, label: str) -> Given:
    """Gives tokens without a label this one."""
    if isinstance(given, dict):
        return {port: _labelled(one, label) for port, one in given.items()}
    return _labelled(given, label)


def _labelled(given: Signature, label: str) -> Signature:
    spans = tuple(span if span.label else replace(span, label=label) for span in given.spans)
    return given.with_(spans=spans)


def split_inputs(
    inputs: Mapping[str, Signature],
) -> tuple[tuple[Signature, ...], dict[str, Signature]]:
    """An operator's inputs: the edited streams in order, and what else it reads."""
    streams = tuple(value for role, value in inputs.items() if is_stream_role(role))
    reads = {
        role.removeprefix(READ): value for role, value in inputs.items() if role.startswith(READ)
    }
    return streams, reads


def wires_by_role(owner: Owner) -> dict[str, Wire]:
    """The wires by the roles under which their streams come, tuples by each of theirs too."""
    found = dict(owner.wires)
    for wire in owner.wires.values():
        found.update({read.text: wire for read in wire.reads if wire.many})
    return found


def is_stream_role(role: str) -> bool:
    """Whether a role of an operator's event is an edited stream: `stream0`, `stream1`, ..."""
    return role.startswith("stream")

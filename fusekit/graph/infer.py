"""Signatures of every value, by walking the events once; wiring faults become problems."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fusekit.component import ModalitySpec, NodeSpec, OperatorSpec, StackSpec
from fusekit.errors import Problem, WiringError
from fusekit.graph.node import Event, Key, Node, Objective, Read
from fusekit.graph.select import select_signature
from fusekit.stream import Signature

Given = Signature | dict[str, Signature]


class Inference:
    """Walks events in order and keeps the signature of every key."""

    def __init__(self, nodes: dict[str, Node]):
        self.nodes = nodes
        self.signatures: dict[Key, Given] = {}
        self.inputs: dict[tuple[str, str, int], dict[str, Signature]] = {}
        """What came in, by (event kind, node, index); losses under ("loss", name, 0)."""
        self.problems: list[Problem] = []

    def run(self, events: tuple[Event, ...]) -> None:
        for event in events:
            node = self.nodes[event.node]
            inputs = self._inputs(event, node)
            if inputs is None:
                continue
            self.inputs[event.kind, event.node, event.index] = inputs
            try:
                given = self._infer(event, node.spec, inputs)
            except WiringError as error:
                problem = error.problem.under(*node.path)
                if problem not in self.problems:
                    self.problems.append(problem)
                continue
            self.signatures.update(given)

    def objective(self, objective: Objective, path: tuple[str | int, ...]) -> None:
        """Checks that a loss or metric can read what it names."""
        inputs: dict[str, Signature] = {}
        try:
            for role, wire in objective.wires.items():
                if any(read.key not in self.signatures for read in wire.reads):
                    return
                inputs[role] = self._read(wire.reads[-1], role)
            objective.spec.check(inputs)
            self.inputs["loss", objective.name, 0] = inputs
        except WiringError as error:
            self.problems.append(error.problem.under(*path))

    def _inputs(self, event: Event, node: Node) -> dict[str, Signature] | None:
        """Signatures by role; `None` if one is unknown for a fault reported already."""
        inputs: dict[str, Signature] = {}
        for role, read in event.reads:
            if read.key.kind in ("edit", "state", "mid", "ports"):
                if read.key.kind == "ports" and read.key in self.signatures:
                    inputs[role] = self._read(read, role)
                continue
            if read.key not in self.signatures:
                return None
            try:
                inputs[role] = self._read(read, role)
            except WiringError as error:
                field = self._field(node, role)
                problem = error.problem.under(*node.path, *field)
                if problem not in self.problems:
                    self.problems.append(problem)
                return None
        return inputs

    def _field(self, node: Node, role: str) -> tuple[str | int, ...]:
        for path, name, reference in node.spec.references():
            if role in (name, str(reference)):
                return path
        return ()

    def _read(self, read: Read, role: str) -> Signature:
        return select_signature(self.signatures[read.key], read.ports, read.text or role)

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
        role: value
        for role, value in inputs.items()
        if not is_stream_role(role) and not role.startswith("raw") and role != "state"
    }
    return streams, reads


def is_stream_role(role: str) -> bool:
    """Whether a role of an operator's event is an edited stream: `stream0`, `stream1`, ..."""
    return role.startswith("stream") and role[6:].isdigit()

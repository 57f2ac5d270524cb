"""From references to wires: which value each role of each component reads."""

from collections.abc import Iterable, Mapping

from fusekit.component import (
    Component,
    EncoderSpec,
    HeadSpec,
    LossSpec,
    ModalitySpec,
    OperatorSpec,
    StackSpec,
)
from fusekit.config.reference import INPUT, PointError, Reference, layers_of
from fusekit.errors import Problem, nearest
from fusekit.graph.node import Key, Node, Objective, Read, ResolvedPlace, Wire

BATCH = "batch"


class Wiring:
    """Resolves the references of an experiment; collects every problem."""

    def __init__(self, nodes: dict[str, Node], modalities: Mapping[str, ModalitySpec]):
        self.nodes = nodes
        self.modalities = modalities
        self.problems: list[Problem] = []
        self.used: set[str] = set()
        self.missing: set[str] = set()
        """Names that were looked up in vain."""
        self._wired: set[str] = set()

    def places(self, node: Node) -> None:
        """Resolves `into`: lockstep pairs of layers."""
        spec = node.spec
        if not isinstance(spec, OperatorSpec) or spec.into is None:
            return
        columns: list[tuple[str, tuple[int, ...]]] = []
        for number, place in enumerate(spec.into):
            path = (*node.path, "into", number)
            stack = self.nodes.get(place.stack)
            if stack is None or not isinstance(stack.spec, StackSpec):
                stacks = [n for n, other in self.nodes.items() if isinstance(other.spec, StackSpec)]
                what = "is not an encoder with layers" if stack else "is not declared"
                self.problems.append(
                    Problem(
                        path,
                        f"{place.stack} {what}",
                        found=str(place),
                        expected="a place in one of " + ", ".join(stacks) if stacks else "",
                        nearest=nearest(place.stack, stacks),
                    )
                )
                continue
            try:
                columns.append((place.stack, layers_of(place.point, stack.spec.layers())))
            except PointError as error:
                self.problems.append(Problem(path, str(error), found=str(place)))
                continue
            self.used.add(place.stack)
            missing = spec.needs - stack.spec.hooks
            if missing and columns[-1][1] != (INPUT,):
                self.problems.append(
                    Problem(
                        path,
                        f"{spec.type} needs the hook {', '.join(sorted(missing))}, which "
                        f"{stack.spec.type} layers do not have",
                        found=f"{place} ({', '.join(sorted(stack.spec.hooks)) or 'no hooks'})",
                        expected="a stack with that hook, such as a transformer",
                    )
                )
        if len(columns) != len(spec.into):
            return
        if len({len(layers) for _, layers in columns}) > 1:
            counts = ", ".join(
                f"{place}: {len(layers)}"
                for place, (_, layers) in zip(spec.into, columns, strict=True)
            )
            self.problems.append(
                Problem(
                    (*node.path, "into"),
                    "the places of an operator have the same number of layers",
                    found=counts,
                    expected="the same count for each",
                )
            )
            return
        if len({stack for stack, _ in columns}) < len(columns):
            self.problems.append(
                Problem((*node.path, "into"), "a stack stands in two places of one operator")
            )
            return
        steps = zip(*[[(stack, k) for k in layers] for stack, layers in columns], strict=True)
        node.places = tuple(ResolvedPlace(step) for step in steps)

    def node(self, node: Node) -> None:
        """Resolves the references of a node, once."""
        if node.name in self._wired:
            return
        self._wired.add(node.name)
        self.wire(node, node.path)
        node.points = node.spec.points()
        if isinstance(node.spec, HeadSpec):
            wire = node.wires.get("input")
            node.points = len(wire.reads) if wire and wire.many else 0

    def wire(self, owner: Node | Objective, path: tuple[str | int, ...]) -> None:
        """Resolves the references of one component."""
        for field_path, role, reference in references_of(owner):
            wire = self.resolve(reference, (*path, *field_path), owner)
            if wire is None:
                continue
            owner.wires[role] = wire
            if wire.many and not takes_tuples(owner, field_path):
                self.problems.append(
                    Problem(
                        (*path, *field_path),
                        "one stream is due here, and this names several",
                        found=f"{reference} ({len(wire.reads)} streams)",
                        expected="one point, such as "
                        + (wire.reads[-1].text or f"{reference.name}@-1"),
                    )
                )

    def resolve(
        self, reference: Reference, path: tuple[str | int, ...], owner: Node | Objective
    ) -> Wire | None:
        if reference.name == BATCH:
            return self._batch(reference, path, owner)
        node = self.nodes.get(reference.name)
        if node is None or node.role == "modality":
            hint = [n for n, other in self.nodes.items() if other.role != "modality"]
            declared = reference.name in self.modalities
            self.missing.add(reference.name)
            self.problems.append(
                Problem(
                    path,
                    f"{reference.name} is a modality: what comes from data is a port of batch"
                    if declared
                    else f"nothing is called {reference.name}",
                    found=str(reference),
                    expected=f"batch.{reference.name}" if declared else "",
                    nearest=nearest(reference.name, hint),
                )
            )
            return None
        if node is owner:
            self.problems.append(Problem(path, "a component cannot read itself", str(reference)))
            return None
        self.used.add(node.name)
        self.node(node)
        text = str(reference)
        if reference.point is not None:
            return self._point(node, reference, path)
        if node.places:
            return self._operator(node, reference)
        if node.points and isinstance(node.spec, HeadSpec):
            reads = tuple(_of_point(node, k, reference.ports) for k in range(node.points))
            return Wire(reads, True, reference)
        return Wire((Read(Key("out", node.name), reference.ports, text),), False, reference)

    def _point(self, node: Node, reference: Reference, path: tuple[str | int, ...]) -> Wire | None:
        point = str(reference.point)
        count = node.spec.layers() if isinstance(node.spec, StackSpec) else node.points
        if not count:
            self.problems.append(
                Problem(path, f"{node.name} ({node.spec.type}) has no points", str(reference))
            )
            return None
        try:
            indices = layers_of(point, count)
        except PointError as error:
            self.problems.append(Problem(path, str(error), found=str(reference)))
            return None
        if isinstance(node.spec, StackSpec):
            reads = [Read(Key("layer", node.name, k), reference.ports) for k in indices]
        else:
            reads = [_of_point(node, k, reference.ports) for k in indices]
        ports = "".join(f".{port}" for port in reference.ports)
        named = tuple(
            Read(r.key, r.ports, f"{node.name}@{'input' if k == INPUT else k}{ports}")
            for r, k in zip(reads, indices, strict=True)
        )
        return Wire(named, reference.many, reference)

    def _operator(self, node: Node, reference: Reference) -> Wire:
        """An operator's name is the tuple of streams it edits; its ports are tuples of places."""
        assert isinstance(node.spec, OperatorSpec)
        if reference.ports and reference.ports[0] in operator_ports(node.spec):
            reads = tuple(
                Read(Key("ports", node.name, p), reference.ports, f"{reference}[{p}]")
                for p in range(len(node.places))
            )
        else:
            stacks = [stack for stack, _ in node.places[0].stacks]
            reads = tuple(
                Read(Key("out", stack), reference.ports, f"{node.name}.{stack}") for stack in stacks
            )
        return Wire(reads, True, reference)

    def _batch(
        self, reference: Reference, path: tuple[str | int, ...], owner: Node | Objective
    ) -> Wire | None:
        known = list(self.modalities)
        if reference.point is not None or not reference.ports:
            self.problems.append(
                Problem(path, "batch is read by its ports", str(reference), "batch.MODALITY")
            )
            return None
        name = reference.ports[0]
        if name not in self.modalities:
            self.missing.add(name)
            self.problems.append(
                Problem(
                    path,
                    f"no modality is called {name}",
                    found=str(reference),
                    expected="one of " + ", ".join(f"batch.{m}" for m in known) if known else "",
                    nearest=tuple(f"batch.{m}" for m in nearest(name, known)),
                )
            )
            return None
        node = f"{BATCH}.{name}"
        if isinstance(owner, Node) and owner.name == node:
            self.problems.append(Problem(path, "a view cannot be made from itself", str(reference)))
            return None
        self.used.add(node)
        return Wire(
            (Read(Key("out", node), reference.ports[1:], str(reference)),), False, reference
        )


def _of_point(node: Node, k: int, ports: tuple[str, ...]) -> Read:
    """Point k of a node without layers: a head called for each point, or a port `@k`."""
    text = f"{node.name}@{k}"
    if isinstance(node.spec, HeadSpec):
        return Read(Key("point", node.name, k), ports, text)
    return Read(Key("out", node.name), (f"@{k}", *ports), text)


def takes_tuples(owner: Node | Objective, field_path: tuple[str | int, ...]) -> bool:
    """Lists of inputs take a tuple as so many inputs, heads answer each, losses average."""
    if isinstance(owner, Objective):
        return isinstance(owner.spec, LossSpec)
    return field_path[0] == "inputs" or isinstance(owner.spec, HeadSpec)


def operator_ports(spec: OperatorSpec) -> tuple[str, ...]:
    """The names of an operator's own ports."""
    return spec.port_names


def references_of(
    owner: Node | Objective,
) -> Iterable[tuple[tuple[str | int, ...], str, Reference]]:
    """The references of a component, the default `input` of an encoder included."""
    spec: Component = owner.spec
    if isinstance(spec, ModalitySpec):
        for path, role, reference in spec.references():
            named = Reference(BATCH, None, (reference.name, *reference.ports))
            yield path, role, reference if reference.name == BATCH else named
        return
    yield from spec.references()
    if isinstance(spec, EncoderSpec) and spec.input is None:
        yield ("input",), "input", Reference(BATCH, None, (owner.name,))

"""From references to wires: which value each role of each component reads."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from fusekit.component import EncoderSpec, HeadSpec, ModalitySpec, OperatorSpec, StackSpec
from fusekit.config.reference import INPUT, PointError, Reference, layers_of
from fusekit.errors import Problem, nearest
from fusekit.graph.inputs import check, references_of
from fusekit.graph.node import BATCH, Key, Node, Objective, Read, Wire
from fusekit.graph.places import layers_there, operators, place

__all__ = ["BATCH", "Wiring"]

Path = tuple[str | int, ...]
MANY_NAMES = 12


class Wiring:
    """Resolves the references of an experiment; collects every problem."""

    def __init__(
        self,
        nodes: dict[str, Node],
        modalities: Mapping[str, ModalitySpec],
        parts: Iterable[str] = (),
    ):
        self.nodes = nodes
        self.modalities = modalities
        self.parts = tuple(parts)
        self.problems: list[Problem] = []
        self.used: set[str] = set()
        """Nodes that something reads or edits."""
        self.meant: set[str] = set()
        """Nodes that a reference with a fault means, or probably means."""
        self.same: dict[str, str] = {}
        """Nodes of parts that stand for the originals, since they would be the same."""

    def place(self) -> None:
        """Resolves the places of every declared node."""
        for node in self.nodes.values():
            node.points = node.spec.points()
        self.problems.extend(place(self.nodes))
        for _, _, into in operators(self.nodes):
            stacks = [n for n, node in self.nodes.items() if isinstance(node.spec, StackSpec)]
            for one in into:
                self._uses(one.stack)
                self.meant.update(() if one.stack in self.nodes else nearest(one.stack, stacks, 1))

    def all(self) -> None:
        """Resolves the references of every declared node."""
        for node in self._read_before_reading():
            self.wire(node, node.path)
            wire = node.wires.get("input")
            if isinstance(node.spec, HeadSpec) and wire is not None and wire.many:
                node.points = len(wire.reads)
                for other in self.nodes.values():
                    if self.original(other) is node:
                        other.points = node.points

    def original(self, node: Node) -> Node:
        """The declared node that a node of a part repeats; a declared node itself."""
        return node if node.repeat is None else self.original(self.nodes[node.repeat.of])

    def _read_before_reading(self) -> Iterator[Node]:
        """All declared nodes, heads first and each after the head that it reads: how many points a
        head has depends on what it reads, and on that what others read of it."""
        done: set[str] = set()
        for node in sorted(self.nodes.values(), key=lambda node: node.role != "head"):
            chain: dict[str, Node] = {}
            follow: Node | None = None if node.repeat else node
            while follow is not None and follow.name not in chain and follow.name not in done:
                chain[follow.name] = follow
                spec = follow.spec
                read = self.node_of(spec.input) if isinstance(spec, HeadSpec) else ""
                follow = self.original(self.nodes[read]) if read in self.nodes else None
            done.update(chain)
            yield from reversed(chain.values())

    def node_of(self, reference: Reference) -> str:
        """The name of the node that a reference names, whether there is one or not."""
        path = [*reference.name.split("."), *reference.ports]
        if path[0] in self.parts and len(path) > 1:
            return ".".join(path[: 3 if path[1] == BATCH else 2])
        return ".".join(path[:2]) if path[0] == BATCH else path[0]

    def wire(self, owner: Node | Objective, path: Path) -> None:
        """Resolves the references of one component."""
        wires: list[Wire] = []
        for field, role, reference in references_of(owner):
            found = self.resolve(reference, owner)
            if isinstance(found, Problem):
                owner.broken = True
                self.problems.append(found.under(*path, *field))
                continue
            wires.append(replace(found, field=field))
            owner.wires[role] = wires[-1]
        problems = [problem.under(*path) for problem in check(owner, wires)]
        self.problems.extend(problems)
        if isinstance(owner.spec, OperatorSpec) and not owner.spec.reads_inputs:
            self.meant.update(read.key.node for wire in wires for read in wire.reads)
            owner.wires.clear()
        elif problems:
            owner.broken = True

    def resolve(self, reference: Reference, owner: Node | Objective | None) -> Wire | Problem:
        """The wire of a reference, or what is wrong with it."""
        if reference.name == BATCH or reference.name.startswith(f"{BATCH}."):
            return self._batch(reference, owner)
        if reference.name.partition(".")[0] in self.parts:
            return self._of_part(reference, owner)
        node = self.nodes.get(reference.name)
        if node is None:
            return self._unknown(reference)
        return self._of_node(node, reference, owner)

    def _uses(self, name: str) -> None:
        """Notes that a node is used, and what it repeats."""
        self.used.add(name)
        repeat = self.nodes[name].repeat if name in self.nodes else None
        if repeat is not None:
            self.used.add(repeat.part)
            self._uses(repeat.of)

    def _of_part(self, reference: Reference, owner: Node | Objective | None) -> Wire | Problem:
        """The wire of a reference to a node of a part."""
        path = [*reference.name.split("."), *reference.ports]
        part, name = path[0], self.node_of(reference)
        self.used.add(part)
        count = len(name.split("."))
        own = [name for name in (*self.nodes, *self.same) if name.startswith(f"{part}.")]
        if name not in own:
            message = f"{part} is a part, of which a node is due"
            if len(path) > 1:
                message = f"the part {part} runs nothing that is called {path[1]}"
            close = nearest(name, own)
            return Problem((), message, str(reference), "" if close else _one_of(own), close)
        self._uses(name)
        node = self.nodes[self.same.get(name, name)]
        ports = tuple(path[count:]) if reference.point is None else reference.ports
        return self._of_node(node, Reference(name, reference.point, ports), owner)

    def _of_node(
        self, node: Node, reference: Reference, owner: Node | Objective | None
    ) -> Wire | Problem:
        if node is owner:
            own = isinstance(node.spec, EncoderSpec) and node.name in self.modalities
            hint = f"batch.{node.name}, or no `input`" if own else ""
            self.meant.update([f"{BATCH}.{node.name}"] if own else [])
            return Problem((), "a component cannot read itself", str(reference), hint)
        self._uses(node.name)
        if reference.point is not None:
            return self._point(node, reference)
        if node.places:
            return self._operator(node, reference)
        if node.points and isinstance(node.spec, HeadSpec):
            reads = tuple(_of_point(node, k, reference.ports) for k in range(node.points))
            return Wire(reads, True, reference)
        read = Read(Key("out", node.name), reference.ports, str(reference))
        return Wire((read,), False, reference)

    def _unknown(self, reference: Reference) -> Problem:
        name = reference.name
        if name in self.modalities:
            self.used.add(f"{BATCH}.{name}")
            message = f"{name} is a modality: what comes from data is a port of batch"
            return Problem((), message, str(reference), f"batch.{name}")
        known = [n for n, other in self.nodes.items() if other.role != "modality"]
        inside = [n for n in known if "." in n]  # nodes of parts: the part may be misspelt
        close = nearest(name, known) or nearest(".".join([name, *reference.ports[:1]]), inside)
        self.meant.update(close[:1])
        due = "" if close else _one_of(known)
        return Problem((), f"nothing is called {name}", str(reference), due, close)

    def _point(self, node: Node, reference: Reference) -> Wire | Problem:
        stack = isinstance(node.spec, StackSpec)
        count = node.spec.layers() if isinstance(node.spec, StackSpec) else node.points
        ports = "".join(f".{port}" for port in reference.ports)
        self.meant.add(node.name)
        if not count:
            message = f"{node.name} ({node.spec.type}) has no points"
            return Problem((), message, str(reference), f"{node.name}{ports}")
        try:
            indices = layers_of(str(reference.point), count)
        except PointError as error:
            message = str(error) if stack else str(error).replace("layer", "point")
            message = message.replace("the stack", node.name)
            return Problem((), message, str(reference), layers_there(node.name, count, error))
        if not stack and INPUT in indices:
            due = layers_there(node.name, count)
            return Problem((), f"{node.name} has no point @input", str(reference), due)
        self.meant.discard(node.name)
        if stack:
            reads = [
                Read(
                    Key("layer", node.name, k),
                    reference.ports,
                    f"{node.name}@{'input' if k == INPUT else k}{ports}",
                )
                for k in indices
            ]
        else:
            reads = [_of_point(node, k, reference.ports) for k in indices]
        return Wire(tuple(reads), reference.many, reference)

    def _operator(self, node: Node, reference: Reference) -> Wire:
        """An operator's name is the tuple of streams it edits; its ports are tuples of places."""
        assert isinstance(node.spec, OperatorSpec)
        if reference.ports and reference.ports[0] in node.spec.port_names:
            reads = tuple(
                Read(Key("ports", node.name, p), reference.ports, f"{reference}[{p}]")
                for p in range(len(node.places))
            )
        else:
            ports = "".join(f".{port}" for port in reference.ports)
            stacks = [stack for stack, _ in node.places[0].stacks]
            reads = tuple(
                Read(Key("out", stack), reference.ports, f"{stack}{ports}") for stack in stacks
            )
        return Wire(reads, True, reference)

    def _batch(self, reference: Reference, owner: Node | Objective | None) -> Wire | Problem:
        view = owner is not None and isinstance(owner.spec, ModalitySpec)
        own = "" if owner is None else owner.name
        known = [name for name in self.modalities if own != f"{BATCH}.{name}"]
        shown = str(reference)
        if reference.point is not None and view:
            named = [*reference.name.split("."), *reference.ports][1]
            shown = f"{named}@{reference.point}"
            due = _one_of(known)
            return Problem((), "a view is made from a modality, which has no layers", shown, due)
        if reference.point is not None:
            due = _one_of([f"batch.{name}" for name in known])
            return Problem((), "batch has no layers", shown, due)
        if not reference.ports:
            due = _one_of([f"batch.{name}" for name in known])
            return Problem((), "batch is read by its ports", shown, due)
        name = reference.ports[0]
        node = f"{BATCH}.{name}"
        if name not in self.modalities:
            close = nearest(name, known)
            self.meant.update(f"{BATCH}.{other}" for other in close[:1])
            spec = None if owner is None else owner.spec
            if isinstance(spec, EncoderSpec) and spec.input is None:
                message = f"no modality is called {name}, which an encoder without `input` reads"
                return Problem((), message, "no `input`", "input: what it reads", close)
            prefix = "" if view else f"{BATCH}."
            return Problem(
                (),
                f"no modality is called {name}",
                found=shown.removeprefix(f"{BATCH}.") if view else shown,
                expected="" if close else _one_of([prefix + other for other in known]),
                nearest=tuple(prefix + other for other in close),
            )
        if isinstance(owner, Node) and owner.name == node:
            return Problem((), "a view cannot be made from itself", name)
        self.used.add(node)
        return Wire((Read(Key("out", node), reference.ports[1:], shown),), False, reference)


def _one_of(names: list[str]) -> str:
    """The names as text, the first of many."""
    more = ", …" if len(names) > MANY_NAMES else ""
    return "one of " + ", ".join(names[:MANY_NAMES]) + more if names else ""


def _of_point(node: Node, k: int, ports: tuple[str, ...]) -> Read:
    """Point k of a node without layers: a head called for each point, or a port `@k`."""
    text = f"{node.name}@{k}" + "".join(f".{port}" for port in ports)
    if isinstance(node.spec, HeadSpec):
        return Read(Key("point", node.name, k), ports, text)
    return Read(Key("out", node.name), (f"@{k}", *ports), text)

"""Parts: pieces of the graph that are run again, as further nodes beside those that they repeat.

A part's node `part.node` has the spec of the node that it repeats, and its wires, in which what
`given` names is replaced and what the part runs itself is its own. With tied weights, what would
come out the same is not run again: its name stands for the original.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fusekit.component import ModalitySpec, OperatorSpec, StackSpec
from fusekit.config.part import Ema, Part
from fusekit.config.reference import INPUT, parse_reference
from fusekit.errors import Problem, nearest
from fusekit.graph.inputs import references_of
from fusekit.graph.node import Key, Node, Read, Repeat, ResolvedPlace
from fusekit.graph.wiring import Wiring

Names = dict[str, str]
"""What a part repeats: the node, and the part's own."""


class Parts:
    """Adds the nodes of parts to those that are declared.

    Args:
      wiring: of the declared nodes, to which what parts run is added.
      parts: as declared.
    """

    def __init__(self, wiring: Wiring, parts: Mapping[str, Part]):
        self.wiring = wiring
        self.nodes = wiring.nodes
        self.parts = parts
        self.names: dict[str, Names] = {}
        """By part, in an order in which none comes before what it repeats."""
        self.problems = wiring.problems
        self._open: list[str] = []
        for name in parts:
            self._declare(name)
        self._beside()

    # -- which nodes there are -----------------------------------------------------------------

    def _declare(self, part: str) -> None:
        if part in self.names:
            return
        if part in self._open:
            circle = " -> ".join([*self._open[self._open.index(part) :], part])
            self.problems.append(
                Problem(("parts", part), "parts repeat one another in a circle", circle)
            )
            self.names[part] = {}
            return
        self._open.append(part)
        spec = self.parts[part]
        self._operators_only(part, spec)
        run = self._upstream(part, spec)
        self._open.remove(part)
        if part in self.names:
            return
        own = spec.weights != "tied"
        decay = spec.weights.decay if isinstance(spec.weights, Ema) else None
        names: Names = {}
        for name in [name for name in self.nodes if name in run]:
            last = name.removeprefix(f"{self._part_of(name)}.")
            mine = f"{part}.{last}"
            if mine in self.nodes:
                first = next(old for old, new in names.items() if new == mine)
                message = f"two nodes that {part} repeats would be called {mine}"
                self.problems.append(
                    Problem(("parts", part, "of"), message, found=f"{first} and {name}")
                )
                continue
            node = self.nodes[name]
            weights = own and node.role != "modality"
            names[name] = mine
            repeat = Repeat(part, name, decay if weights else None, weights)
            self.nodes[mine] = Node(mine, node.role, node.spec, repeat=repeat)
        self.names[part] = names

    def _part_of(self, name: str) -> str:
        repeat = self.nodes[name].repeat
        return repeat.part if repeat else ""

    def _upstream(self, part: str, spec: Part) -> set[str]:
        """What the ends of a part depend on, operators included."""
        waiting: list[str] = []
        for number, reference in enumerate(spec.of):
            name = self._known(self.wiring.node_of(reference))
            if name not in self.nodes or self._entry(name):
                known = [n for n, node in self.nodes.items() if node.role != "modality"]
                self.problems.append(
                    Problem(
                        ("parts", part, "of", number),
                        f"no node is called {name}",
                        found=str(reference),
                        expected="nodes of encoders, fusion or heads, or of another part",
                        nearest=nearest(name, known),
                    )
                )
            waiting.append(name)
        found: set[str] = set()
        while waiting:
            name = self._known(waiting.pop())
            if name in found or name not in self.nodes or self._entry(name):
                continue
            if name in spec.without:
                continue
            found.add(name)
            waiting += self._reads(name)
        return found

    def _known(self, name: str) -> str:
        """The name, after the part that it belongs to is declared."""
        part = name.partition(".")[0]
        if part in self.parts and part not in self.names:
            self._declare(part)
        return name

    def _entry(self, name: str) -> bool:
        spec = self.nodes[name].spec
        return isinstance(spec, ModalitySpec) and spec.of is None

    def _reads(self, name: str) -> Iterator[str]:
        """The nodes that a node reads, that edit it, and that it edits."""
        node = self.nodes[name]
        if node.repeat is not None:
            names = self.names[node.repeat.part]
            yield from (names.get(read, read) for read in self._reads(node.repeat.of))
            given = self.parts[node.repeat.part].given.values()
            yield from (self.wiring.node_of(reference) for reference in given)
        else:
            for _, _, reference in references_of(node):
                yield self.wiring.node_of(reference)
            yield from _edits(node)
        if isinstance(node.spec, StackSpec):
            yield from (n for n, o in self.nodes.items() if name in _edits(o))

    def _operators_only(self, part: str, spec: Part) -> None:
        operators = [n for n, node in self.nodes.items() if _edits(node)]
        for number, name in enumerate(spec.without):
            if name not in operators:
                self.problems.append(
                    Problem(
                        ("parts", part, "without", number),
                        f"no operator is called {name}",
                        found=name,
                        expected="a fusion with `into`",
                        nearest=nearest(name, operators),
                    )
                )

    def _beside(self) -> None:
        """Puts each node of a part after the one that it repeats: operators at one place act in
        the order of the file."""
        order: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            root = node
            while root.repeat is not None:
                root = self.nodes[root.repeat.of]
            order.setdefault(root.name, []).append(node)
        nodes = {node.name: node for group in order.values() for node in group}
        self.nodes.clear()
        self.nodes.update(nodes)

    # -- how they are wired --------------------------------------------------------------------

    def place(self) -> None:
        """Lets operators of parts edit the stacks of their parts, where the originals do theirs."""
        for names in self.names.values():
            for name, mine in names.items():
                self.nodes[mine].points = self.nodes[name].points
                self.nodes[mine].places = tuple(
                    ResolvedPlace(tuple((names[stack], layer) for stack, layer in place.stacks))
                    for place in self.nodes[name].places
                    if all(stack in names for stack, _ in place.stacks)
                )

    def wire(self) -> None:
        """Wires the nodes of all parts, after those that are declared."""
        for part, names in self.names.items():
            _Wires(part, self.parts[part], names, self.wiring).all()
        same = self.wiring.same
        for node in self.nodes.values():
            for role, wire in node.wires.items():
                reads = tuple(_named(read, same) for read in wire.reads)
                node.wires[role] = replace(wire, reads=reads)
            node.given = {k: _named(read, same) for k, read in node.given.items()}
            if node.repeat is not None and node.repeat.of in same:
                node.repeat = replace(node.repeat, of=same[node.repeat.of])
        for name in same:
            del self.nodes[name]


class _Wires:
    """Wires the nodes of one part."""

    def __init__(self, part: str, spec: Part, names: Names, wiring: Wiring):
        self.part, self.spec, self.names = part, spec, names
        self.nodes, self.wiring = wiring.nodes, wiring
        self.given: list[tuple[str, Read, Read]] = []
        self.hits: set[str] = set()

    def all(self) -> None:
        self._replacements()
        changed: set[str] = set()
        for name, mine in self.names.items():
            if self._repeat(self.nodes[name], self.nodes[mine]):
                changed.add(name)
        for text, target, _ in self.given:
            if text not in self.hits:
                self._problem(
                    ("given", text),
                    f"nothing that {self.part} runs reads {text}",
                    expected="what is upstream of " + ", ".join(map(str, self.spec.of)),
                    nearest=nearest(target.key.node, self.names),
                )
        self._share(changed)

    def _problem(self, field: tuple[str | int, ...], message: str, **more: object) -> None:
        self.wiring.problems.append(
            Problem(("parts", self.part, *field), message, **more)  # pyright: ignore
        )

    def _replacements(self) -> None:
        for text, reference in self.spec.given.items():
            pair: list[Read] = []
            for one in (parse_reference(text), reference):
                wire = self.wiring.resolve(one, None)
                if isinstance(wire, Problem):
                    if one is not reference:
                        wire = replace(wire, nearest=self._alike(text))
                    self.wiring.problems.append(wire.under("parts", self.part, "given", text))
                elif len(wire.reads) != 1:
                    self._problem(
                        ("given", text),
                        "one stream is due here, and this names several",
                        found=", ".join(read.text for read in wire.reads),
                    )
                else:
                    pair.append(wire.reads[0])
            if len(pair) == 2:
                self.given.append((text, pair[0], pair[1]))

    def _alike(self, text: str) -> tuple[str, ...]:
        """What may be meant by a reference to what is replaced."""
        name, at, point = text.partition("@")
        return tuple(f"{other}{at}{point}" for other in nearest(name, self.nodes))

    def _repeat(self, node: Node, mine: Node) -> bool:
        """Wires a node like the one that it repeats. Says whether anything is another."""
        changed = mine.repeat is not None and mine.repeat.own
        mine.broken = node.broken
        for role, wire in node.wires.items():
            reads = tuple(self._replaced(read) for read in wire.reads)
            changed |= reads != wire.reads
            mine.wires[role] = replace(wire, reads=tuple(self._own(read) for read in reads))
        for text, target, instead in self.given:
            if target.key.kind == "layer" and target.key.node == node.name and not target.ports:
                mine.given[target.key.index] = instead
                self.hits.add(text)
                changed = True
        mine.given = {k: self._own(r) for k, r in node.given.items()} | mine.given
        edited = {stack for o in self.nodes.values() for stack in _edits(o) if not o.repeat}
        left = {stack for name in self.spec.without for stack in _edits(self.nodes.get(name))}
        return changed or mine.name in edited or node.name in left

    def _replaced(self, read: Read) -> Read:
        """What is read in the place of a read of the original."""
        for text, target, instead in self.given:
            count = len(target.ports)
            if read.key == target.key and read.ports[:count] == target.ports:
                self.hits.add(text)
                return Read(instead.key, (*instead.ports, *read.ports[count:]), read.text)
            whole = target.key.kind == "out" and not target.ports
            if whole and read.key.kind == "layer" and read.key.node == target.key.node:
                self.hits.add(text)
                return self._point(text, read, instead)
        return read

    def _point(self, text: str, read: Read, instead: Read) -> Read:
        """A point of what replaces a stack."""
        node, index = self.nodes[instead.key.node], read.key.index
        there = instead.key.kind == "out" and not instead.ports
        if there and isinstance(node.spec, StackSpec) and index < node.spec.layers():
            return Read(Key("layer", node.name, index), read.ports, read.text)
        if there and node.points > index >= 0:
            return Read(instead.key, (f"@{index}", *read.ports), read.text)
        self._problem(
            ("given", text),
            f"{instead.text or node.name} has no point @{index}, and {self.part} reads {read.text}",
            expected=f"what has this point, or {read.text} replaced instead",
        )
        return read

    def _own(self, read: Read) -> Read:
        """The part's own in place of the original."""
        mine = self.names.get(read.key.node)
        return read if mine is None else replace(read, key=replace(read.key, node=mine))

    def _share(self, changed: set[str]) -> None:
        """Lets names stand for the originals whose repeats would be the same."""
        mine = {new: old for old, new in self.names.items()}
        growing = True
        while growing:
            before = len(changed)
            for name, own in self.names.items():
                node = self.nodes[own]
                read = {r.key.node for wire in node.wires.values() for r in wire.reads}
                read |= {r.key.node for r in node.given.values()}
                read |= {stack for place in node.places for stack, _ in place.stacks}
                if any(mine.get(other) in changed for other in read):
                    changed.add(name)
                if name in changed:
                    stacks = {stack for place in node.places for stack, _ in place.stacks}
                    changed |= {mine[stack] for stack in stacks}
            growing = len(changed) > before
        same = {own: name for name, own in self.names.items() if name not in changed}
        self.wiring.same.update({own: self.wiring.same.get(n, n) for own, n in same.items()})
        for name in changed:
            self._share_layers(name, self.nodes[self.names[name]])

    def _share_layers(self, name: str, mine: Node) -> None:
        """Lets a stack begin where it first differs from the one that it repeats: at the first
        layer at which an operator acts that is not the same there."""
        if not isinstance(mine.spec, StackSpec) or mine.given or mine.repeat.own:  # pyright: ignore
            return
        reads = [read for wire in mine.wires.values() for read in wire.reads]
        theirs = [read for wire in self.nodes[name].wires.values() for read in wire.reads]
        same = self.wiring.same
        if [_named(read, same) for read in reads] != [_named(read, same) for read in theirs]:
            return
        acting = [n for n in self.nodes if n not in same and n not in self.names]
        acting += [operator for operator in self.spec.without if operator in self.nodes]
        layers = [
            layer
            for operator in acting
            for place in self.nodes[operator].places
            for stack, layer in place.stacks
            if stack == mine.name or (stack == name and operator in self.spec.without)
        ]
        first = min(layers, default=INPUT)
        if first >= 0:
            mine.given[first - 1] = Read(Key("layer", name, first - 1), (), f"{name}@{first - 1}")


def _edits(node: Node | None) -> tuple[str, ...]:
    """The stacks that a declared operator edits, by name."""
    if node is None or node.repeat is not None or not isinstance(node.spec, OperatorSpec):
        return ()
    return tuple(place.stack for place in node.spec.into or ())


def _named(read: Read, same: Names) -> Read:
    node = same.get(read.key.node)
    return read if node is None else replace(read, key=replace(read.key, node=node))

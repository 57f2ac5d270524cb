"""From wires to an order of events: who must run before whom, down to single layers.

The program orders layers, not stacks: two stacks may read each other as long as no layer waits
for itself. Events are found by demand, depth first, so that lockstep places come out in a
repeating order, which the schedule can scan.
"""

from collections.abc import Callable, Iterable, Iterator

from fusekit.component import HeadSpec, ModalitySpec, StackSpec
from fusekit.config.reference import INPUT
from fusekit.errors import Problem
from fusekit.graph.node import READ, Event, Key, Node, Read


class Ordering:
    """Finds the events that given values need."""

    def __init__(self, nodes: dict[str, Node]):
        self.nodes = nodes
        self.at: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
        """(stack, layer) -> the (operator, place, position in the place) acting there, in order."""
        for name, node in nodes.items():
            for number, place in enumerate(() if node.idle else node.places):
                for position, where in enumerate(place.stacks):
                    self.at.setdefault(where, []).append((name, number, position))
        self._events: dict[Key, Event] = {}

    def stream_after(self, stack: str, layer: int) -> Key:
        """The running stream after a layer and every edit there."""
        acting = self.at.get((stack, layer), ())
        return self._after(stack, layer, len(acting))

    def _after(self, stack: str, layer: int, edits: int) -> Key:
        """The stream after the layer and the first `edits` operators have left."""
        acting = self.at.get((stack, layer), ())
        if edits == len(acting):
            return Key("layer", stack, layer)
        return Key("raw", stack, layer) if edits == 0 else Key("after", stack, layer, edits)

    def _before(self, stack: str, layer: int, edits: int) -> Read:
        """The stream entering a layer, as changed by the first `edits` operators there."""
        if edits == 0:
            return self._entering(stack, layer)
        return Read(Key("before", stack, layer, edits))

    def _entering(self, stack: str, layer: int) -> Read:
        """The output of the layer before, or what a part gives in its place."""
        given = self.nodes[stack].given.get(layer - 1)
        return given or Read(Key("layer", stack, layer - 1))

    def event_of(self, key: Key) -> Event:
        """The event that gives this value."""
        if key not in self._events:
            event = self._make(key)
            for given in event.gives:
                self._events[given] = event
        return self._events[key]

    def _make(self, key: Key) -> Event:
        node = self.nodes[key.node]
        match key.kind:
            case "out" | "point":
                return self._node_event(node, key)
            case "layer" | "raw" | "after":
                return self._stream_event(node, key)
            case "before" | "edit":
                operator, place, _ = self.at[(key.node, key.index)][key.sub - 1]
                return self._enter(self.nodes[operator], place)
            case "state" | "ports" | "mid":
                if key.kind == "state" and key.index < 0:
                    return self._begin(node)
                if key.kind == "mid":
                    return self._enter(node, key.index)
                return self._leave(node, key.index)
            case _:
                raise KeyError(key)

    def _node_event(self, node: Node, key: Key) -> Event:
        spec = node.spec
        if isinstance(spec, StackSpec):
            last = self._entering(node.name, spec.layers())
            return Event("end", node.name, 0, (("stream", last),), (Key("out", node.name),))
        if isinstance(spec, ModalitySpec) and spec.of is None:
            return Event("batch", node.name, 0, (), (key,))
        if isinstance(spec, HeadSpec) and node.points:
            read = node.wires["input"].reads[key.index]
            return Event("call", node.name, key.index, (("input", read),), (key,))
        return Event("call", node.name, 0, tuple(self._reads(node)), (key,))

    def _reads(self, node: Node) -> Iterator[tuple[str, Read]]:
        """The (role, read) pairs of a node."""
        for role, wire in node.wires.items():
            for read in wire.reads:
                yield read.text if wire.many else role, read

    def _place_reads(self, node: Node, place: int) -> Iterator[tuple[str, Read]]:
        """What an operator reads at a place besides the edited streams: taps are zipped."""
        for role, wire in node.wires.items():
            yield READ + role, wire.reads[min(place, len(wire.reads) - 1)]

    def _stream_event(self, node: Node, key: Key) -> Event:
        spec = node.spec
        assert isinstance(spec, StackSpec)
        acting = self.at.get((node.name, key.index), ())
        if key.kind == "after" or (key.kind == "layer" and acting):
            operator, place, _ = acting[(key.sub if key.kind == "after" else len(acting)) - 1]
            return self._leave(self.nodes[operator], place)
        if key.index == INPUT:
            return Event("start", node.name, 0, tuple(self._reads(node)), (key,))
        entering = self._before(node.name, key.index, len(acting))
        edits = [
            (f"edit{n}", Read(Key("edit", node.name, key.index, n + 1))) for n in range(len(acting))
        ]
        return Event("layer", node.name, key.index, (("stream", entering), *edits), (key,))

    def _begin(self, node: Node) -> Event:
        streams = [
            (f"stream{n}", Read(Key("layer", stack, k - 1) if k > INPUT else Key("raw", stack, k)))
            for n, (stack, k) in enumerate(node.places[0].stacks)
        ]
        reads = (*streams, *self._place_reads(node, 0))
        return Event("begin", node.name, 0, reads, (Key("state", node.name, -1),))

    def _position(self, node: Node, place: int, where: tuple[str, int]) -> int:
        """How many operators act at this place before this one."""
        found = [
            n for n, (name, p, _) in enumerate(self.at[where]) if (name, p) == (node.name, place)
        ]
        return found[0]

    def _enter(self, node: Node, place: int) -> Event:
        reads: list[tuple[str, Read]] = []
        gives: list[Key] = []
        for number, (stack, layer) in enumerate(node.places[place].stacks):
            order = self._position(node, place, (stack, layer))
            reads.append((f"stream{number}", self._before(stack, layer, order)))
            gives.append(Key("edit", stack, layer, order + 1))
            gives.append(Key("before", stack, layer, order + 1))
        reads.append(("state", Read(Key("state", node.name, place - 1))))
        reads.extend(self._place_reads(node, place))
        gives.append(Key("mid", node.name, place))
        return Event("enter", node.name, place, tuple(reads), tuple(gives))

    def _leave(self, node: Node, place: int) -> Event:
        reads: list[tuple[str, Read]] = []
        gives: list[Key] = []
        at_input = node.places[place].stacks[0][1] == INPUT
        for number, (stack, layer) in enumerate(node.places[place].stacks):
            order = self._position(node, place, (stack, layer))
            reads.append((f"stream{number}", Read(self._after(stack, layer, order))))
            if not at_input:
                reads.append((f"raw{number}", Read(Key("raw", stack, layer))))
            gives.append(self._after(stack, layer, order + 1))
        before = Key("state", node.name, -1) if at_input else Key("mid", node.name, place)
        reads.append(("state", Read(before)))
        reads.extend(self._place_reads(node, place))
        gives.append(Key("state", node.name, place))
        gives.append(Key("ports", node.name, place))
        return Event("leave", node.name, place, tuple(reads), tuple(gives))


def order(
    ordering: Ordering,
    wanted: Iterable[Key],
    on_cycle: Callable[[Problem], None],
    before: Iterable[Event] = (),
) -> tuple[Event, ...]:
    """The events that `wanted` needs and `before` has not, each after what it reads.

    Each cycle is reported once. Its events are among the result, in no particular order.
    """
    done: dict[Event, None] = dict.fromkeys(before)
    first = len(done)
    open_: list[tuple[Key, Event, Iterator[Key]]] = []
    waiting: dict[Event, None] = {}
    circling: set[Event] = set()

    def enter(key: Key, event: Event) -> None:
        waiting[event] = None
        open_.append((key, event, iter([read.key for _, read in event.reads])))

    for key in wanted:
        event = ordering.event_of(key)
        if event not in done:
            enter(key, event)
        while open_:
            _, event, keys = open_[-1]
            for needed in keys:
                other = ordering.event_of(needed)
                if other in waiting:
                    at = list(waiting).index(other)
                    loop = [(needed, other), *[(k, e) for k, e, _ in open_[at + 1 :]]]
                    if circling.isdisjoint(e for _, e in loop):
                        on_cycle(_cycle(ordering, loop))
                    circling.update(e for _, e in loop)
                elif other not in done:
                    enter(needed, other)
                    break
            else:
                open_.pop()
                del waiting[event]
                done[event] = None
    return settled(tuple(done)[first:])


def settled(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """The events, with what need not happen within a place moved before it.

    By demand, what a second operator reads comes up when the first has entered. Moved out, the
    places of several operators look alike from the first on, and can be scanned.
    """
    found: list[Event] = []
    within: list[Event] = []
    given: set[Key] = set()
    open_: set[Key] = set()
    for event in events:
        reads = {read.key for _, read in event.reads}
        if open_ and not given & reads and event.kind != "enter":
            found.append(event)
            continue
        open_.update(key for key in event.gives if key.kind == "mid")
        if event.kind == "leave":
            open_ -= reads
        within.append(event)
        given.update(event.gives)
        if not open_:
            found += within
            within, given = [], set()
    return (*found, *within)


def _cycle(ordering: Ordering, loop: list[tuple[Key, Event]]) -> Problem:
    """Says that events wait for each other, each for the next by way of the next one's key.

    It starts at an operator if there is one, since its `inputs` are where a user can act.
    """
    names = list(ordering.nodes)
    acting = [n for n, (_, e) in enumerate(loop) if e.kind == "enter"] or range(len(loop))
    start = min(acting, key=lambda n: names.index(loop[n][1].node))
    steps: list[tuple[str, str]] = []
    for key, event in (*loop[start:], *loop[:start], loop[start]):
        for node, label in _labels(key, event):
            if not steps or steps[-1][0] != node:
                steps.append((node, label))
    node = ordering.nodes[loop[start][1].node]
    layers = any("@" in label for _, label in steps)
    return Problem(
        node.path,
        "a layer would wait for itself" if layers else f"{node.name} reads itself",
        found=" <- ".join(label for _, label in steps),
        expected="each reads only what is computed before it"
        + (", such as an earlier layer" if layers else ""),
    )


def _labels(key: Key, event: Event) -> Iterator[tuple[str, str]]:
    """What to call an event that gives this key: (node, text), or two where an operator edits."""
    if key.kind == "layer":
        yield key.node, f"{key.node}@{'input' if key.index == INPUT else key.index}"
    if event.kind != "layer":
        yield event.node, event.node

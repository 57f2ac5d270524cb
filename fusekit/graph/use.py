"""What is used: which values to compute, and which declared names nothing comes to."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from fusekit.errors import Problem, nearest
from fusekit.graph.node import BATCH, Event, Key, Node, Objective, root

if TYPE_CHECKING:
    from fusekit.config.spec import Experiment

LIKE = 0.8
"""How alike two names are of which one is taken for the other spelt wrongly."""


def end_of(node: Node) -> Key:
    """What a node gives when it is through: its value, or an operator's last state."""
    if node.places:
        return Key("state", node.name, len(node.places) - 1)
    return Key("point", node.name, 0) if node.role == "head" and node.points else _out(node)


def _out(node: Node) -> Key:
    return Key("out", node.name)


def wanted_of(
    nodes: dict[str, Node], losses: dict[str, Objective], metrics: dict[str, Objective]
) -> list[Key]:
    """The values to compute: heads, what objectives read, and what is kept for its own sake."""
    wanted: list[Key] = []
    for name, node in nodes.items():
        if node.repeat is not None:
            continue
        if node.role == "head" and node.points:
            wanted.extend(Key("point", name, k) for k in range(node.points))
        elif node.role == "head" or (node.spec.keep and not node.places):
            wanted.append(_out(node))
    return wanted + read_of(losses, metrics)


def read_of(*objectives: dict[str, Objective]) -> list[Key]:
    """What objectives read."""
    every = [objective for group in objectives for objective in group.values()]
    return [r.key for one in every for wire in one.wires.values() for r in wire.reads]


def meant_of(nodes: dict[str, Node], meant: set[str]) -> list[Key]:
    """The ends of nodes that a reference with a fault means, and what broken components read."""
    ends = [end_of(node) for name, node in nodes.items() if name in meant]
    wires = [wire for node in nodes.values() if node.broken for wire in node.wires.values()]
    return ends + [read.key for wire in wires for read in wire.reads]


def not_in(nodes: dict[str, Node], events: tuple[Event, ...]) -> list[Key]:
    """The ends of the declared nodes of which nothing happens in these events, idle ones apart."""
    reached = {event.node for event in events}
    left = [n for n in nodes.values() if n.name not in reached and not n.repeat and not n.idle]
    return [end_of(node) for node in left]


def unused(nodes: dict[str, Node], used: set[str]) -> list[Problem]:
    """A declared name that nothing uses is an error, since a misspelt use looks just so.

    Of names that only each other use, the last in the row is told, or the circle.
    """
    found: list[Problem] = []
    known = {name.removeprefix(f"{BATCH}.") for name in nodes}
    for name, node in nodes.items():
        if name in used or node.spec.keep or node.places or node.broken or node.repeat:
            continue
        bare = name.removeprefix(f"{BATCH}.")
        found.append(
            Problem(
                node.path,
                f"nothing uses {name}",
                found=f"{node.role} {bare} ({node.spec.type})",
                expected="a reference to it, or keep: true",
                nearest=tuple(get_close_matches(bare, known - {bare}, 1, LIKE)),
            )
        )
    return found


def leave_away(
    nodes: dict[str, Node], names: Iterable[str], objectives: dict[str, dict[str, Objective]]
) -> list[Problem]:
    """Makes operators idle, with those of parts that repeat them; and says what reads their ports.

    Args:
      nodes: by name.
      names: of the operators that a stage leaves away.
      objectives: of the stage, by section and name.
    """
    found: list[Problem] = []
    for number, name in enumerate(names):
        if name in nodes and not nodes[name].places and not nodes[name].broken:
            message = f"{name} edits no stream, so it cannot be left away"
            found.append(Problem(("train", "without", number), message, expected="an operator"))
    for node in nodes.values():
        node.idle = root(nodes, node).name in names and bool(node.places)
    readers = [(node.path, node) for node in nodes.values() if not node.idle]
    readers += [((s, n), o) for s, each in objectives.items() for n, o in each.items()]
    for path, reader in readers:
        for role, wire in [*reader.wires.items()]:
            if any(read.key.kind == "ports" and nodes[read.key.node].idle for read in wire.reads):
                message = f"reads {wire.reference} of an operator that is left away"
                found.append(Problem((*path, *wire.field), message))
                reader.broken = True
                del reader.wires[role]
    return found


def unused_parts(parts: Iterable[str], used: set[str]) -> list[Problem]:
    """Parts of which nothing reads a node."""
    return [
        Problem(("parts", part), f"nothing uses {part}", expected=f"a reference to {part}.NODE")
        for part in parts
        if part not in used
    ]


def unreached(nodes: dict[str, Node], events: tuple[Event, ...]) -> list[Problem]:
    """Operators none of whose edits is read, in a part neither."""
    reached: set[str] = set()
    for name in {event.node for event in events}:
        reached.add(name)
        while (repeat := nodes[name].repeat) is not None and repeat.of in nodes:
            name = repeat.of
            reached.add(name)
    return [
        Problem(
            (*node.path, "into"),
            f"nothing reads what {name} edits",
            found=", ".join(f"{stack}@{layer}" for stack, layer in node.places[0].stacks),
            expected="a loss, metric or head that depends on these layers",
        )
        for name, node in nodes.items()
        if node.places and name not in reached and node.repeat is None and not node.idle
    ]


def misnamed(experiment: "Experiment", nodes: Iterable[str]) -> list[Problem]:
    """Parameter patterns that begin with no node: told without knowing any parameter."""
    train = experiment.train
    known = [name for name in nodes if not name.startswith(f"{BATCH}.")]
    patterns = {("train", "trainable", n): p for n, p in enumerate(train.trainable or ())}
    for name, group in train.groups.items():
        patterns |= {("train", "groups", name, "paths", n): p for n, p in enumerate(group.paths)}
    return [
        Problem(
            path,
            "no parameter has this path",
            found=pattern,
            expected="a parameter path, the start of one, or a glob",
            nearest=nearest(pattern.split(".")[0], known),
        )
        for path, pattern in patterns.items()
        if pattern.split(".")[0] not in (*known, BATCH, "losses")
        and not any(c in pattern.split(".")[0] for c in "*?[")
    ]

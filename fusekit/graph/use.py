"""What is used: which values to compute, and which declared names nothing comes to."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from fusekit.errors import Problem, nearest
from fusekit.graph.node import BATCH, Event, Key, Node, Objective

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
        if node.role == "head" and node.points:
            wanted.extend(Key("point", name, k) for k in range(node.points))
        elif node.role == "head" or (node.spec.keep and not node.places):
            wanted.append(_out(node))
    for objective in (*losses.values(), *metrics.values()):
        wanted.extend(read.key for wire in objective.wires.values() for read in wire.reads)
    return wanted


def meant_of(nodes: dict[str, Node], meant: set[str]) -> list[Key]:
    """The ends of nodes that a reference with a fault means, and what broken components read."""
    ends = [end_of(node) for name, node in nodes.items() if name in meant]
    wires = [wire for node in nodes.values() if node.broken for wire in node.wires.values()]
    return ends + [read.key for wire in wires for read in wire.reads]


def not_in(nodes: dict[str, Node], events: tuple[Event, ...]) -> list[Key]:
    """The ends of the nodes of which nothing happens in these events."""
    reached = {event.node for event in events}
    return [end_of(node) for name, node in nodes.items() if name not in reached]


def unused(nodes: dict[str, Node], used: set[str]) -> list[Problem]:
    """A declared name that nothing uses is an error, since a misspelt use looks just so.

    Of names that only each other use, the last in the row is told, or the circle.
    """
    found: list[Problem] = []
    known = {name.removeprefix(f"{BATCH}.") for name in nodes}
    for name, node in nodes.items():
        if name in used or node.spec.keep or node.places or node.broken:
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


def unreached(nodes: dict[str, Node], events: tuple[Event, ...]) -> list[Problem]:
    """Operators none of whose edits is read."""
    reached = {event.node for event in events}
    return [
        Problem(
            (*node.path, "into"),
            f"nothing reads what {name} edits",
            found=", ".join(f"{stack}@{layer}" for stack, layer in node.places[0].stacks),
            expected="a loss, metric or head that depends on these layers",
        )
        for name, node in nodes.items()
        if node.places and name not in reached
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

"""A config as a tree in which everything knows where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass

from fusekit.errors import Position

Scalar = str | int | float | bool | None
Plain = Scalar | list["Plain"] | dict[str, "Plain"]
Path = tuple[str | int, ...]


@dataclass(slots=True, eq=False)
class Node:
    """A value of a config file.

    Args:
      value: a scalar, a list of nodes or a mapping of nodes.
      position: where the value stands.
      key: where the key stands under which it is found, if it is the value of a mapping.
    """

    value: "Scalar | list[Node] | dict[str, Node]"
    position: Position | None = None
    key: Position | None = None

    @property
    def fields(self) -> "dict[str, Node]":
        """The entries of a mapping; nothing for any other value."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> "list[Node]":
        """The entries of a list; nothing for any other value."""
        return self.value if isinstance(self.value, list) else []


def plain(node: Node) -> Plain:
    """The same values as ordinary dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def walk(node: Node, path: Path) -> Iterator[Node]:
    """The nodes along a path, the root first, as far as the path exists."""
    yield node
    for step in path:
        if isinstance(node.value, dict) and step in node.value:
            node = node.value[str(step)]
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            return
        yield node


def locate(root: Node, path: Path, *, key: bool = False) -> Position | None:
    """Where a path stands, or else the nearest thing that encloses it.

    A scalar or list stands where its value does, a mapping where its key does. With `key` the
    key is meant whatever the value is.
    """
    nodes = list(walk(root, path))
    node = nodes[-1]
    named = key or len(nodes) <= len(path) or isinstance(node.value, dict)
    if named and node.key is not None:
        return node.key
    return node.position or _first(node)


def _first(node: Node) -> Position | None:
    """Where the first thing stands that a node holds."""
    while node.fields and node.key is None and node.position is None:
        node = next(iter(node.fields.values()))
    return node.key or node.position

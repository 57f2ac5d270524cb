"""The graph's parts: keys of values, reads, events and nodes. Plain data, no arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fusekit.component import LossSpec, MetricSpec, NodeSpec
from fusekit.config.reference import Reference

Role = Literal["modality", "encoder", "fusion", "head"]
BATCH = "batch"
"""The name of what comes from data."""

READ = ":"
"""Begins the roles under which operators' events read `inputs`. Roles without it (`stream0`,
`raw0`, `state`) are fusekit's own, whatever a user calls his."""

EventKind = Literal["batch", "call", "start", "begin", "enter", "layer", "leave", "end"]


@dataclass(frozen=True)
class Key:
    """Names a value of the running program.

    Kinds: `out` (what a node gives at its end), `layer` (a running stream after layer `index` and
    every edit there; index -1 is `@input`), `raw` (what layer `index` gave), `edit`, `before`
    (the stream entering a layer after an operator's edit), `after` (a stream after an operator has
    left), `state` and `mid` (an operator's state after, and within, place `index`), `ports`.
    """

    kind: str
    node: str
    index: int = 0
    sub: int = 0

    def shifted(self, by: int) -> "Key":
        return Key(self.kind, self.node, self.index + by, self.sub)


@dataclass(frozen=True)
class Read:
    """A value, and the ports of it that are read."""

    key: Key
    ports: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Event:
    """One thing the program does: which reads it takes and which values it gives."""

    kind: EventKind
    node: str
    index: int
    reads: tuple[tuple[str, Read], ...]
    gives: tuple[Key, ...]


@dataclass(frozen=True)
class ResolvedPlace:
    """One step of an operator: the (stack, layer) pairs that it edits in lockstep."""

    stacks: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Wire:
    """A resolved reference: one read, or a tuple of them; `field` is where the spec has it."""

    reads: tuple[Read, ...]
    many: bool
    reference: Reference
    field: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """What a node of a part repeats.

    Args:
      part: the name of the part.
      of: the node that is run again.
      decay: of the average that its weights are, without gradient; `None`: no average.
      own: whether it has weights of its own.
    """

    part: str
    of: str
    decay: float | None = None
    own: bool = False


@dataclass
class Node:
    """A declared component, or one that a part runs again, with its wires resolved."""

    name: str
    role: Role
    spec: NodeSpec
    wires: dict[str, Wire] = field(default_factory=dict)
    places: tuple[ResolvedPlace, ...] = ()
    points: int = 0
    broken: bool = False
    """Whether a wire or place is missing, for a fault that is reported."""
    repeat: Repeat | None = None
    given: dict[int, Read] = field(default_factory=dict)
    """What stands in the place of layers' outputs, in a part; -1 is `@input`."""
    idle: bool = False
    """Whether it is an operator that the stage leaves away."""

    @property
    def path(self) -> tuple[str | int, ...]:
        """Where the node stands in the config."""
        if self.repeat is not None:
            return ("parts", self.repeat.part)
        section = {"modality": "modalities", "encoder": "encoders", "head": "heads"}
        return (section.get(self.role, self.role), self.name.removeprefix("batch."))


@dataclass
class Objective:
    """A loss or a metric with its wires resolved."""

    name: str
    spec: LossSpec | MetricSpec
    wires: dict[str, Wire] = field(default_factory=dict)
    broken: bool = False


def root(nodes: Mapping[str, Node], node: Node) -> Node:
    """The declared node that a part's node repeats, over parts of parts; itself, if none."""
    while node.repeat is not None:
        node = nodes[node.repeat.of]
    return node

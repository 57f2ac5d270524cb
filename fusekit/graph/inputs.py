"""What the wires of one component may be together: no stream twice, tuples of the right length."""

from collections.abc import Iterable, Iterator

from fusekit.component import (
    Component,
    EncoderSpec,
    HeadSpec,
    LossSpec,
    ModalitySpec,
    OperatorSpec,
)
from fusekit.config.reference import Reference
from fusekit.errors import Problem
from fusekit.graph.node import BATCH, Key, Node, Objective, Wire

Field = tuple[str | int, ...]


def references_of(owner: Node | Objective) -> Iterable[tuple[Field, str, Reference]]:
    """The references of a component, the default `input` of an encoder included."""
    spec: Component = owner.spec
    if isinstance(spec, ModalitySpec):
        for path, role, reference in spec.references():
            named = Reference(BATCH, reference.point, (reference.name, *reference.ports))
            yield path, role, reference if reference.name == BATCH else named
        return
    yield from spec.references()
    if isinstance(spec, EncoderSpec) and spec.input is None:
        yield ("input",), "input", Reference(BATCH, None, (owner.name,))


def listed(wire: Wire) -> bool:
    """Whether a wire is an entry of a list, which takes a tuple as so many entries."""
    return len(wire.field) == 2 and isinstance(wire.field[1], int)


def check(owner: Node | Objective, wires: list[Wire]) -> Iterator[Problem]:
    """What is wrong with the wires of a component, under its own path."""
    yield from _tuples(owner, wires)
    yield from _twice(wires)
    if isinstance(owner.spec, OperatorSpec) and not owner.spec.reads_inputs:
        yield from _not_read(owner.spec, wires)
    elif isinstance(owner, Node) and owner.places:
        yield from _zipped(len(owner.places), wires)
    if isinstance(owner.spec, LossSpec):
        yield from _averaged(wires)


def _tuples(owner: Node | Objective, wires: list[Wire]) -> Iterator[Problem]:
    """Lists and operators take tuples, heads answer each, losses average; none else may."""
    spec = owner.spec
    if isinstance(spec, HeadSpec | LossSpec) or (isinstance(owner, Node) and owner.places):
        return
    for wire in wires:
        if wire.many and not listed(wire):
            yield Problem(
                wire.field,
                "one stream is due here, and this names several",
                found=f"{wire.reference}: {', '.join(read.text for read in wire.reads)}",
                expected=f"one of them, such as {wire.reads[-1].text}",
            )


def _twice(wires: list[Wire]) -> Iterator[Problem]:
    """A list names no stream twice: its entries are known by what they name."""
    seen: dict[tuple[Field, Key, tuple[str, ...]], Wire] = {}
    for wire in wires:
        if not listed(wire):
            continue
        for read in wire.reads:
            before = seen.setdefault((wire.field[:1], read.key, read.ports), wire)
            if before is not wire:
                first = ".".join(map(str, before.field))
                yield Problem(
                    wire.field,
                    f"{read.text} is listed twice",
                    found=f"{wire.reference}, and {before.reference} at {first}",
                    expected="each stream once",
                )
                break


def _not_read(spec: OperatorSpec, wires: list[Wire]) -> Iterator[Problem]:
    if wires:
        yield Problem(
            ("inputs",),
            f"{spec.type} reads nothing but the streams that it edits",
            found=", ".join(str(wire.reference) for wire in wires),
            expected="no `inputs`",
        )


def _zipped(count: int, wires: list[Wire]) -> Iterator[Problem]:
    """A tuple that an operator reads has one stream for each of its places."""
    for wire in wires:
        if wire.many and len(wire.reads) not in (1, count):
            yield Problem(
                wire.field,
                "a tuple gives each place of an operator one stream",
                found=f"{len(wire.reads)} in {wire.reference}, for {count} "
                f"place{'' if count == 1 else 's'}",
                expected=f"{count}, or a single stream for all places",
            )


def _averaged(wires: list[Wire]) -> Iterator[Problem]:
    """A loss goes through its tuples point by point."""
    many = [wire for wire in wires if wire.many]
    for wire in many[1:]:
        if len(wire.reads) != len(many[0].reads):
            yield Problem(
                wire.field,
                "the tuples that one loss reads have the same length",
                found=f"{wire.reference} is {len(wire.reads)}, "
                f"{many[0].reference} is {len(many[0].reads)}",
                expected=f"{len(many[0].reads)}, or a single stream",
            )

"""What HLO text says, as plain data."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fusekit.errors import HloError
from fusekit.plan.hlo.groups import Groups
from fusekit.plan.hlo.shapes import Shape, integer

_TRANSPARENT = frozenset({"bitcast", "copy", "reshape", "convert", "optimization-barrier"})


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Args:
      shapes: of the result; a tuple's in order.
      operands: the names of instructions of the same computation.
      argument: what stands between the brackets, as text: a constant's value, a parameter's number.
      called: computations and the part they play, such as `("body", "region_0.1")`.
      attributes: those not read into fields, as text.
      replica_groups: none if the instruction has none; empty if all devices form one group.
      op_name: where the instruction stems from.
      frontend_attributes: as text, with the sharding if there is one.
      backend_config: as text; `config` decodes it.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...] = ()
    argument: str = ""
    called: tuple[tuple[str, str], ...] = ()
    attributes: str = ""
    channel_id: int | None = None
    replica_groups: Groups | None = None
    source_target_pairs: tuple[tuple[int, int], ...] = ()
    dimensions: tuple[int, ...] = ()
    op_name: str = ""
    frontend_attributes: str = ""
    backend_config: str = ""

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def calls(self, *roles: str) -> tuple[str, ...]:
        """The computations that it calls in these parts."""
        return tuple(name for role, name in self.called if role in roles)

    def attribute(self, name: str) -> str:
        """One attribute as text, without braces; empty if there is none."""
        found = re.search(rf"\b{name}=(?:\{{([^{{}}]*)\}}|([^\s,]+))", self.attributes)
        return (found[1] or found[2] or "") if found else ""

    def number(self, name: str) -> int:
        """One attribute that is a number. Raises `HloError` if there is none."""
        return integer(self.attribute(name))

    def frontend(self, name: str) -> str:
        """One frontend attribute as text; empty if there is none."""
        pattern = rf'\b{name}=(?:"([^"]*)"|(\{{(?:\{{[^{{}}]*\}},?)*\}}))'
        found = re.search(pattern, self.frontend_attributes)
        return (found[1] or found[2] or "") if found else ""

    def config(self) -> dict[str, Any]:
        """The backend's configuration, decoded; empty if there is none or it is not JSON."""
        try:
            value, _ = json.JSONDecoder().raw_decode(self.backend_config)
            value = json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]
    root_name: str

    @property
    def root(self) -> Instruction:
        return self.instructions[self.root_name]

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return {integer(one.argument): one for one in found}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each instruction."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                found[operand].append(instruction)
        return found

    def operand(self, instruction: Instruction, index: int = 0) -> Instruction:
        """One operand of an instruction. Raises `HloError` if it has not so many."""
        if index >= len(instruction.operands):
            raise HloError(f"{instruction.name} has no operand {index}")
        return self.instructions[instruction.operands[index]]

    def shape(self, instruction: Instruction, index: int = 0) -> Shape:
        """The shape of an operand that is one array."""
        return only(self.operand(instruction, index))

    def behind(self, instruction: Instruction) -> Instruction:
        """The instruction whose values an instruction passes on, itself otherwise."""
        while instruction.opcode in _TRANSPARENT and instruction.operands:
            instruction = self.operand(instruction)
        return instruction


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Args:
      devices: on so many it runs as one; of a program over several TPU slices, those of a slice.
    """

    name: str
    devices: int
    computations: dict[str, Computation]
    entry: str

    def fused(self, fusion: Instruction) -> Computation:
        """What a fusion fuses. Raises `HloError` if it says nothing of it."""
        called = fusion.calls("calls")
        if not called:
            raise HloError(f"fusion {fusion.name} calls nothing")
        return self.computations[called[0]]

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """The instructions of a fusion, those of fusions within among them."""
        for name in instruction.calls("calls"):
            computation = self.computations[name]
            for inner in computation.instructions.values():
                yield computation, inner
                if inner.opcode == "fusion":
                    yield from self.inside(inner)


def only(instruction: Instruction) -> Shape:
    """The shape of an instruction that gives one array. Raises `HloError` if it gives several."""
    if len(instruction.shapes) != 1:
        raise HloError(f"{instruction.name} gives {len(instruction.shapes)} arrays")
    return instruction.shapes[0]

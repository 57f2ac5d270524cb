"""What collectives move, and between whom."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fusekit.errors import HloError
from fusekit.plan.hlo.kinds import collective, continued, target
from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.placement import Placement
from fusekit.plan.hlo.scopes import scope_in, scope_of
from fusekit.plan.hlo.shapes import integers
from fusekit.plan.hlo.walk import Visit

_TRANSFERS = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
_BLOCK = re.compile(r"\{([\d,]+)\}x\{[\d:,]+\}")
_LISTED = re.compile(r"\{(\d+(?:(?:,|->)\d+)*)\}")
_SLICE = 100_000


@dataclass(frozen=True)
class Collective:
    """A collective of a program.

    Args:
      opcode: without `-start`; `reduce-scatter` where TPU prints an all-reduce of which each
        device keeps its part.
      bytes: that one device sends in one run, by ring algorithms.
      size: of a group; of a permute, devices in its longest chain.
      axes: the mesh axes along which a group varies.
      dcn: whether it crosses slices.
      times: how often it runs in a step.
      scope: the node that it belongs to; empty if none.
    """

    opcode: str
    bytes: int
    size: int
    axes: tuple[str, ...]
    dcn: bool
    times: int = 1
    scope: str = ""

    @property
    def total_bytes(self) -> int:
        return self.bytes * self.times


def collectives(module: Module, visit: Visit, placement: Placement) -> Iterator[Collective]:
    """The collectives that an instruction is, fuses or sends to other slices."""
    instruction = visit.instruction
    outer = scope_of(module, visit.computation, instruction)
    if instruction.opcode == "fusion":
        for where, inner in module.inside(instruction):
            if collective(inner) and _counts(where, inner):
                scope = scope_in(inner.op_name) or outer
                found = _traffic(where, inner, placement)
                yield replace(found, times=visit.times, scope=scope)
    elif collective(instruction):
        found = _traffic(visit.computation, instruction, placement)
        yield replace(found, times=visit.times, scope=outer)
    elif instruction.opcode == "send" and instruction.frontend("_xla_megascale_transfer_type"):
        found = _transfer(visit.computation, instruction, placement)
        yield replace(found, times=visit.times, scope=outer)


def _counts(where: Computation, instruction: Instruction) -> bool:
    """Whether a collective in a fusion is more than the continuation of another.

    TPU cuts a collective into a fusion that starts it, some that go on with it beside their own
    work and one that ends it, and prints it in each. Channels do not tell them apart: one channel
    may serve several.
    """
    if not continued(instruction):
        return True
    return any(target(user) == "AsyncCollectiveStart" for user in where.users[instruction.name])


def _traffic(
    computation: Computation, instruction: Instruction, placement: Placement
) -> Collective:
    opcode = collective(instruction)
    given = sum(computation.instructions[name].bytes for name in instruction.operands)
    if opcode == "ragged-all-to-all":
        given = computation.operand(instruction).bytes
    if opcode == "all-reduce" and _scattered(computation, instruction):
        opcode = "reduce-scatter"
    if opcode == "collective-permute":
        pairs = [
            tuple(placement.position(device) for device in pair)
            for pair in instruction.source_target_pairs
        ]
        return _permuted(pairs, given, placement)
    groups = [
        tuple(placement.position(device) for device in group)
        for group in instruction.replica_groups or ()
    ] or [placement.everyone]
    return _grouped(opcode, groups, given, placement)


def _scattered(computation: Computation, instruction: Instruction) -> bool:
    """Whether each device only keeps a part of what is reduced."""
    waiting = list(computation.users[instruction.name])
    for user in waiting:
        if user.opcode in ("get-tuple-element", "bitcast"):
            waiting += computation.users[user.name]
        elif user.opcode != "dynamic-slice":
            return False
    return any(user.opcode == "dynamic-slice" for user in waiting)


def _grouped(
    opcode: str,
    groups: list[tuple[int, ...]],
    given: int,
    placement: Placement,
) -> Collective:
    size = max(len(group) for group in groups)
    moved = {
        "all-gather": given * (size - 1),
        "all-reduce": 2 * given * (size - 1) // size,
        "reduce-scatter": given * (size - 1) // size,
        "all-to-all": given * (size - 1) // size,
        "ragged-all-to-all": given * (size - 1) // size,
        "collective-broadcast": given if size > 1 else 0,
    }[opcode]
    return Collective(opcode, moved, size, placement.varied(groups), placement.crosses(groups))


def _permuted(pairs: list[tuple[int, ...]], given: int, placement: Placement) -> Collective:
    moving = [pair for pair in pairs if pair[0] != pair[1]]
    return Collective(
        opcode="collective-permute",
        bytes=given if moving else 0,
        size=_longest(moving),
        axes=placement.varied(moving),
        dcn=placement.crosses(moving),
    )


def _longest(pairs: list[tuple[int, ...]]) -> int:
    """How many devices the longest chain or ring of a permute has."""
    chain: dict[int, set[int]] = {}
    for source, goal in pairs:
        joined = chain.get(source, {source}) | chain.get(goal, {goal})
        chain.update(dict.fromkeys(joined, joined))
    return max(map(len, chain.values()), default=1)


def _transfer(
    computation: Computation, instruction: Instruction, placement: Placement
) -> Collective:
    """What a slice sends to others: of the part of a collective that XLA leaves to Megascale."""
    kind = _TRANSFERS.get(instruction.frontend("_xla_megascale_transfer_type"))
    if kind is None:
        raise HloError(f"{instruction.name} sends to other slices in a way that is not known")
    given = computation.operand(instruction).bytes
    groups = _targets(instruction.frontend("_xla_megascale_target"), placement)
    if not groups:
        raise HloError(f"{instruction.name} does not say to which slices it sends")
    if kind == "collective-permute":
        return _permuted(groups, given, placement)
    return _grouped(kind, groups, given, placement)


def _targets(text: str, placement: Placement) -> list[tuple[int, ...]]:
    """Which slices exchange, each by its first position.

    `{1,2}x{0:3}` joins devices 0 to 3 of slice 1 with those of slice 2; listed devices, such as
    100003, are of slice 1 and have the number 3 there. These are the hardware's numbers, unlike
    those of replica groups, so that within a slice they do not tell the place in the mesh.
    """
    block = _BLOCK.fullmatch(text)
    if block:
        slices = [integers(block[1])]
    else:
        listed = [integers(one.replace("->", ",")) for one in _LISTED.findall(text)]
        slices = [tuple(device // _SLICE for device in group) for group in listed]
    return [tuple(placement.first_of(number - 1) for number in group) for group in slices]

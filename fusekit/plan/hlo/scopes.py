"""Which node of the model an instruction belongs to, by the scope that fusekit traced it in."""

import re
from collections.abc import Callable, Iterable

from fusekit.plan.hlo.module import Computation, Instruction, Module

MARK = re.compile(r"fusekit-node=([^/();\"]+)")
STEPS = 4
"""So far an instruction that says nothing is traced to one that does."""


def scope_in(op_name: str) -> str:
    """The innermost node that an `op_name` tells: of `transpose(jvp(fusekit-node=a))` it is `a`.

    Empty if it tells none: the optimiser, or what a scan does around its body.
    """
    found = MARK.findall(op_name)
    return found[-1] if found else ""


def scope_of(module: Module, computation: Computation, instruction: Instruction) -> str:
    """The node of an instruction.

    A fusion whose own `op_name` tells none belongs to the node of a product that it fuses, else of
    the last operation in it that tells one; one that fuses several nodes' operations counts as one
    node's whole. What has no `op_name` at all, such as the pieces that XLA cuts a collective into,
    belongs to where the nearest instruction that reads it belongs, else one that it reads.
    """
    scope = scope_in(instruction.op_name)
    if not scope and instruction.opcode == "fusion":
        scope = _inside(module, instruction)
    if scope or instruction.op_name:
        return scope
    readers = _near(instruction, lambda one: computation.users[one.name])
    if readers is not None:
        return scope_in(readers.op_name)
    read = _near(instruction, lambda one: [computation.instructions[n] for n in one.operands])
    return scope_in(read.op_name) if read is not None else ""


def _inside(module: Module, fusion: Instruction) -> str:
    last = ""
    for _, inner in module.inside(fusion):
        scope = scope_in(inner.op_name)
        if scope and inner.opcode in ("dot", "convolution"):
            return scope
        last = scope or last
    return last


def _near(
    instruction: Instruction, following: Callable[[Instruction], Iterable[Instruction]]
) -> Instruction | None:
    """The nearest instruction that has an `op_name`; a parameter's is a name of the user's."""
    front = [instruction]
    for _ in range(STEPS):
        front = list({one.name: one for near in front for one in following(near)}.values())
        for one in front:
            if one.op_name and one.opcode != "parameter":
                return one
    return None

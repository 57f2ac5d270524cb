"""Which node of the model an instruction belongs to, by the scope that fusekit traced it in."""

import re

from fusekit.plan.hlo.module import Instruction, Module

MARK = re.compile(r"fusekit-node=([^/();\"]+)")


def scope_in(op_name: str) -> str:
    """The innermost node that an `op_name` tells: of `transpose(jvp(fusekit-node=a))` it is `a`.

    Empty if it tells none: the optimiser, most often.
    """
    found = MARK.findall(op_name)
    return found[-1] if found else ""


def scope_of(module: Module, instruction: Instruction) -> str:
    """The node of an instruction.

    A fusion whose own `op_name` tells none belongs to the node of a product that it fuses, else of
    the last operation in it that tells one. One that fuses several nodes' operations counts as one
    node's whole.
    """
    scope = scope_in(instruction.op_name)
    if scope or instruction.opcode != "fusion":
        return scope
    last = ""
    for _, inner in module.inside(instruction):
        scope = scope_in(inner.op_name)
        if scope and inner.opcode in ("dot", "convolution"):
            return scope
        last = scope or last
    return last

"""Bytes that instructions move to and from main memory (HBM).

Operands and results of top-level instructions count unless they live in on-chip memory; what is
within a fusion never leaves the chip. It is an estimate:

- It is too low where a convolution or a sort reads its operand more than once, where a slice cuts
  through tiles, and for what a custom call does by itself.
- It is too high where an operand is still in a cache (GPU and CPU), where a gather or a scatter
  leaves most of its operand alone inside a fusion that also needs the whole, and for an update in
  place that the compiler did not say is one.
"""

from collections.abc import Sequence

from fusekit.plan.hlo.fused import HBM, PARTS, Fused, in_hbm
from fusekit.plan.hlo.kinds import is_free
from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.shapes import Shape


def hbm_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes of one run of a top-level instruction."""
    opcode = instruction.opcode
    if is_free(instruction):
        return 0
    if opcode == "fusion":
        return Fused(module, computation, instruction).bytes()
    results = instruction.shapes
    if opcode in ("send", "recv"):
        return in_hbm(results[:1])
    if opcode.endswith("-start"):  # beside the arrays there are numbers that tell how far it is
        results = tuple(shape for shape in results if shape.dims)
    if opcode in ("slice-start", "dynamic-slice-start"):
        part = results[-1:]
        return in_hbm(part) + _where(computation, instruction, part)
    if opcode in ("dynamic-update-slice", "dynamic-update-slice-start"):
        update = _of(computation, instruction, 1)
        return in_hbm(update) + _where(computation, instruction, update)
    if opcode.endswith("-start") and opcode != "all-reduce-start":
        return in_hbm(results)  # the operands are among the results
    if opcode in PARTS:
        rest = [
            shape
            for at in range(1, len(instruction.operands))
            for shape in _of(computation, instruction, at)
        ]
        return in_hbm(results) + _where(computation, instruction, results) + in_hbm(rest)
    if opcode == "scatter":
        count = len(instruction.operands) // 2
        rest = [_of(computation, instruction, at) for at in range(count, len(instruction.operands))]
        updates = [shape for shapes in rest[1:] for shape in shapes]
        indices = rest[0] if rest else ()
        return in_hbm(indices) + in_hbm(updates) + 2 * _where(computation, instruction, updates)
    names = dict.fromkeys(instruction.operands)
    return in_hbm(results) + sum(in_hbm(computation.instructions[n].shapes) for n in names)


def _of(computation: Computation, instruction: Instruction, index: int) -> tuple[Shape, ...]:
    return computation.operand(instruction, index).shapes


def _where(computation: Computation, instruction: Instruction, parts: Sequence[Shape]) -> int:
    """Bytes of parts of the first operand, if that lives in main memory."""
    first = _of(computation, instruction, 0)
    return sum(part.stored for part in parts) if first and first[0].space == HBM else 0

"""Bytes that instructions move to and from main memory (HBM).

Operands and results of top-level instructions count unless they live in on-chip memory; what is
within a fusion never leaves the chip. It is an estimate:

- It is too low where a tile is padded, where a convolution or a sort reads its operand more than
  once, and for what a custom call does by itself.
- It is too high where an operand is still in a cache (GPU and CPU), where a gather or a scatter
  leaves most of its operand alone inside a fusion that also needs the whole, and for an update in
  place that the compiler did not say is one.
"""

from collections.abc import Sequence

from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.shapes import Shape

HBM = 0
_FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "optimization-barrier",
        "partition-id",
        "replica-id",
        "async-start",
        "async-update",
        "add-dependency",
        "domain",
        "send-done",
        "recv-done",
    ]
)
_FREE_CALLS = frozenset({"AllocateBuffer", "ConcatBitcast", "SliceId"})
_ELEMENTWISE = frozenset({"bitcast", "convert", "reshape", "copy", "negate", "transpose"})
_PARTS = frozenset({"dynamic-slice", "slice", "gather"})


def hbm_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes of one run of a top-level instruction."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or target(instruction) in _FREE_CALLS:
        return 0
    if opcode == "fusion":
        return _Fused(module, computation, instruction).bytes()
    results = [shape for shape in instruction.shapes if shape.dims]
    if opcode in ("send", "recv"):
        return _in_hbm(results[:1])
    if opcode == "slice-start":
        part = results[-1:]
        return _in_hbm(part) + _where(computation, instruction, part)
    if opcode.endswith("-start") and opcode != "all-reduce-start":
        return _in_hbm(results)  # the operands are among the results
    if opcode in _PARTS:
        rest = [
            shape
            for at in range(1, len(instruction.operands))
            for shape in _of(computation, instruction, at)
        ]
        return _in_hbm(results) + _where(computation, instruction, results) + _in_hbm(rest)
    if opcode == "dynamic-update-slice":
        update = _of(computation, instruction, 1)
        return _in_hbm(update) + _where(computation, instruction, update)
    if opcode == "scatter":
        count = len(instruction.operands) // 2
        rest = [_of(computation, instruction, at) for at in range(count, len(instruction.operands))]
        updates = [shape for shapes in rest[1:] for shape in shapes]
        indices = rest[0] if rest else ()
        return _in_hbm(indices) + _in_hbm(updates) + 2 * _where(computation, instruction, updates)
    names = dict.fromkeys(instruction.operands)
    return _in_hbm(results) + sum(_in_hbm(computation.instructions[n].shapes) for n in names)


def target(instruction: Instruction) -> str:
    """What a custom call calls."""
    if instruction.opcode != "custom-call":
        return ""
    return instruction.attribute("custom_call_target").strip('"')


def _of(computation: Computation, instruction: Instruction, index: int) -> tuple[Shape, ...]:
    return computation.operand(instruction, index).shapes


def _in_hbm(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == HBM)


def _where(computation: Computation, instruction: Instruction, parts: Sequence[Shape]) -> int:
    """Bytes of parts of the first operand, if that lives in main memory."""
    first = _of(computation, instruction, 0)
    return sum(part.bytes for part in parts) if first and first[0].space == HBM else 0


class _Fused:
    """One fusion: what it reads of its operands and writes of its results."""

    def __init__(self, module: Module, computation: Computation, fusion: Instruction):
        self.module = module
        self.fused = module.fused(fusion)
        self.operands = [computation.instructions[name] for name in fusion.operands]
        self.shapes = fusion.shapes
        inside = self.fused.instructions.values()
        self.starts = any(target(one) == "AsyncCollectiveStart" for one in inside)
        self.ends = any(target(one) == "AsyncCollectiveDone" for one in inside)

    def bytes(self) -> int:
        if self.starts:  # a collective in pieces moves what it moves here, and later nothing
            return _in_hbm([shape for shape in self.shapes if shape.elements > 16])
        if self.ends:
            return 0
        total = 0
        for number, operand in enumerate(self.operands):
            if number in self.fused.parameters:
                name = self.fused.parameters[number].name
                for shape in operand.shapes:
                    if shape.space == HBM:
                        read = self.read(self.fused, name, shape.elements)
                        total += _bytes(shape, read)
        written = self.written(self.fused)
        if len(written) != len(self.shapes):
            written = [shape.elements for shape in self.shapes]
        for shape, elements in zip(self.shapes, written, strict=True):
            total += _bytes(shape, elements) if shape.space == HBM else 0
        return total

    def read(self, fused: Computation, name: str, whole: int) -> int:
        """Elements that are read of a value of `whole` elements within a fusion."""
        total = 0
        for user in fused.users[name]:
            first = user.operands[0] == name
            if user.opcode in _PARTS and first:
                total += sum(shape.elements for shape in user.shapes)
            elif user.opcode == "dynamic-update-slice" and first:
                continue
            elif user.opcode in _ELEMENTWISE and user.name != fused.root_name:
                total += self.read(fused, user.name, whole)
            elif user.opcode == "fusion":
                inner = self.module.fused(user)
                for number, operand in enumerate(user.operands):
                    if operand == name and number in inner.parameters:
                        total += self.read(inner, inner.parameters[number].name, whole)
            elif (user.opcode == "tuple" and user.name == fused.root_name) or _in_pieces(user):
                continue
            else:
                return whole
        return min(total, whole)

    def written(self, fused: Computation) -> list[int]:
        """Elements that are written of each result: of an update in place, the update's."""
        root = fused.root
        leaves = (
            [fused.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
        )
        found: list[int] = []
        for leaf in leaves:
            behind = fused.behind(leaf)
            if behind.opcode == "dynamic-update-slice":
                found.append(sum(shape.elements for shape in fused.operand(behind, 1).shapes))
            elif behind.opcode == "fusion":
                found += self.written(self.module.fused(behind))
            elif root.opcode == "tuple" and (leaf.opcode == "parameter" or _in_pieces(leaf)):
                found += [0] * len(leaf.shapes)
            else:
                found += [shape.elements for shape in leaf.shapes]
        return found


def _in_pieces(instruction: Instruction) -> bool:
    """Whether it is a collective that goes on beside a fusion's work."""
    return '"async_collective_fusion_config"' in instruction.backend_config


def _bytes(shape: Shape, elements: int) -> int:
    return (elements * shape.bits + 7) // 8

"""What a fusion reads of its operands and writes of its results."""

from collections.abc import Sequence

from fusekit.plan.hlo.kinds import continued, target
from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.shapes import Shape

HBM = 0
PARTS = frozenset({"dynamic-slice", "slice", "gather"})
"""These read as much of their first operand as they give."""

_ELEMENTWISE = frozenset({"bitcast", "convert", "reshape", "copy", "negate", "transpose"})


def in_hbm(shapes: Sequence[Shape]) -> int:
    """Bytes of the arrays that live in main memory, as they are stored there."""
    return sum(shape.stored for shape in shapes if shape.space == HBM)


class Fused:
    """One fusion, where it stands."""

    def __init__(self, module: Module, computation: Computation, fusion: Instruction):
        self.module = module
        self.fused = module.fused(fusion)
        self.operands = [computation.instructions[name] for name in fusion.operands]
        self.shapes = fusion.shapes
        inside = self.fused.instructions.values()
        self.ends = any(target(one) == "AsyncCollectiveDone" for one in inside)

    def bytes(self) -> int:
        if self.ends:  # what a collective in pieces moves counts where it starts
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

    def read(self, fused: Computation, name: str, whole: int, given: bool = True) -> int:
        """Elements that are read of a value of `whole` elements within a fusion.

        Args:
          given: whether the value came in, so that a root that gives it back need not read it.
        """
        total = 0
        for user in fused.users[name]:
            first = user.operands[0] == name
            if user.opcode in PARTS and first:
                total += sum(shape.elements for shape in user.shapes)
            elif user.opcode == "dynamic-update-slice" and first:
                continue
            elif user.opcode in _ELEMENTWISE and user.name != fused.root_name:
                total += self.read(fused, user.name, whole, given=False)
            elif user.opcode == "fusion":
                inner = self.module.fused(user)
                for number, operand in enumerate(user.operands):
                    if operand == name and number in inner.parameters:
                        total += self.read(inner, inner.parameters[number].name, whole)
            elif continued(user) or (given and user.opcode == "tuple"):
                continue
            else:
                return whole
        return min(total, whole)

    def written(self, fused: Computation) -> list[int]:
        """Elements that are written of each result: of an update in place, the update's."""
        root = fused.root
        names = root.operands if root.opcode == "tuple" else (root.name,)
        found: list[int] = []
        for leaf in (fused.instructions[name] for name in names):
            behind = fused.behind(leaf)
            if behind.opcode == "dynamic-update-slice":
                found.append(sum(shape.elements for shape in fused.operand(behind, 1).shapes))
            elif behind.opcode == "fusion":
                found += self.written(self.module.fused(behind))
            elif root.opcode == "tuple" and (leaf.opcode == "parameter" or continued(leaf)):
                found += [0] * len(leaf.shapes)
            else:
                found += [shape.elements for shape in leaf.shapes]
        return found


def _bytes(shape: Shape, elements: int) -> int:
    return shape.stored if elements == shape.elements else shape.bytes_of(elements)

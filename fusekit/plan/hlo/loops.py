"""How many turns a `while` takes, where its text tells.

CPU and GPU print the number (`known_trip_count`). TPU does not: there it follows from where the
counter starts, what a turn adds to it and the constant that the condition compares it with.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.shapes import integer

_NUMBER = ("bitcast", "copy", "reshape", "convert")
_SWAPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE", "EQ": "EQ"}


@dataclass(frozen=True)
class Turns:
    """How many turns, and whether that is certain.

    Uncertain are 1 where nothing is known, and the limit where only the limit is.
    """

    count: int
    certain: bool


@dataclass(frozen=True)
class _Value:
    """A number in a loop: element `index` of what the loop carries, if any, plus a constant."""

    index: int | None
    constant: int


_CARRIED = "what the loop carries"
_Given = Callable[[int], "_Value | str | None"]


def turns(module: Module, caller: Computation, loop: Instruction) -> Turns:
    """The turns of a `while` that stands in `caller`."""
    known = loop.config().get("known_trip_count")
    count = known.get("n") if isinstance(known, dict) else None
    if isinstance(count, int | str) and str(count).isdigit():
        return Turns(integer(str(count)), True)
    if not (loop.calls("condition") and loop.calls("body")):
        return Turns(1, False)
    condition = module.computations[loop.calls("condition")[0]]
    body = module.computations[loop.calls("body")[0]]
    compared = _compared(module, condition, condition.root, lambda number: _CARRIED)
    if compared is None:
        return Turns(1, False)
    counter, direction, limit = compared
    if counter.index is None or (limit.index is not None and counter.index == limit.index):
        return Turns(1, False)
    end = limit.constant
    if limit.index is not None:
        if _after(module, body, limit.index) != _Value(limit.index, 0):
            return Turns(1, False)
        first = _before(module, caller, loop, limit.index)
        if first is None:
            return Turns(1, False)
        end += first
    start = _before(module, caller, loop, counter.index)
    step = _after(module, body, counter.index)
    certain = start is not None and step is not None and step.index == counter.index
    added = step.constant if step is not None and certain else 1
    count = _count((start or 0) + counter.constant, added, direction, end)
    return Turns(1, False) if count is None else Turns(count, certain)


def _count(start: int, step: int, direction: str, end: int) -> int | None:
    if direction in ("GT", "GE"):
        start, step, end = -start, -step, -end
        direction = _SWAPPED[direction]
    if step <= 0 or direction not in ("LT", "LE", "NE"):
        return None
    return max(0, -((start - end - (direction == "LE")) // step))


def _compared(
    module: Module, computation: Computation, instruction: Instruction, given: _Given
) -> tuple[_Value, str, _Value] | None:
    """The two sides of a condition, the counter first."""
    instruction = computation.behind(instruction)
    if instruction.opcode == "fusion":
        fused = module.fused(instruction)
        inner = _into(module, computation, instruction, given)
        return _compared(module, fused, fused.root, inner)
    if instruction.opcode != "compare":
        return None
    sides = [
        _value(module, computation, computation.operand(instruction, at), given) for at in (0, 1)
    ]
    direction = instruction.attribute("direction")
    left, right = sides
    if not isinstance(left, _Value) or not isinstance(right, _Value) or direction not in _SWAPPED:
        return None
    constant = right.index is None or left.index is not None
    return (left, direction, right) if constant else (right, _SWAPPED[direction], left)


def _value(
    module: Module, computation: Computation, instruction: Instruction, given: _Given
) -> _Value | str | None:
    match instruction.opcode:
        case "constant":
            text = instruction.argument.strip()
            sign = -1 if text.startswith("-") else 1
            text = text.removeprefix("-")
            return _Value(None, sign * integer(text)) if text.isdecimal() else None
        case "parameter":
            return given(integer(instruction.argument))
        case "get-tuple-element":
            source = computation.behind(computation.operand(instruction))
            index = instruction.number("index")
            if source.opcode == "tuple":
                inner = computation.operand(source, index)
                return _value(module, computation, inner, given)
            whole = _value(module, computation, source, given)
            return _Value(index, 0) if whole == _CARRIED else None
        case "add" | "subtract":
            left, right = (
                _value(module, computation, computation.operand(instruction, at), given)
                for at in (0, 1)
            )
            if not isinstance(left, _Value) or not isinstance(right, _Value):
                return None
            if instruction.opcode == "subtract":
                right = _Value(right.index, -right.constant)
                return None if right.index is not None else _sum(left, right)
            return _sum(left, right)
        case "fusion":
            fused = module.fused(instruction)
            inner = _into(module, computation, instruction, given)
            return _value(module, fused, fused.root, inner)
        case opcode if opcode in _NUMBER:
            return _value(module, computation, computation.operand(instruction), given)
    return None


def _sum(left: _Value, right: _Value) -> _Value | None:
    if left.index is not None and right.index is not None:
        return None
    index = left.index if left.index is not None else right.index
    return _Value(index, left.constant + right.constant)


def _into(module: Module, computation: Computation, fusion: Instruction, given: _Given) -> _Given:
    """What the parameters of a fusion stand for."""
    return lambda number: _value(module, computation, computation.operand(fusion, number), given)


def _before(module: Module, caller: Computation, loop: Instruction, index: int) -> int | None:
    """What the loop carries at `index` when it begins."""
    carried = caller.behind(caller.operand(loop))
    if carried.opcode != "tuple":
        return None
    value = _value(module, caller, caller.operand(carried, index), lambda number: None)
    return value.constant if isinstance(value, _Value) else None


def _after(module: Module, body: Computation, index: int) -> _Value | None:
    """What the loop carries at `index` after a turn."""
    root = body.behind(body.root)
    if root.opcode != "tuple":
        return None
    value = _value(module, body, body.operand(root, index), lambda number: _CARRIED)
    return value if isinstance(value, _Value) else None

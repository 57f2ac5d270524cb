"""FLOPs of products: two for each multiply-add of `dot` and `convolution`, from their shapes."""

import re
from collections.abc import Iterator
from math import gcd, prod
from typing import NamedTuple

from fusekit.errors import HloError
from fusekit.plan.hlo.kinds import is_free, target
from fusekit.plan.hlo.module import Computation, Instruction, Module, only
from fusekit.plan.hlo.shapes import Shape, integer, integers

_LABELS = re.compile(r"(\w+)_(\w+)->(\w+)")
_DECLARED = re.compile(r'"cost_estimate":\{([^{}]*)\}')
_WORK = re.compile(r'"(flops|transcendentals|bytes_accessed)":"?(\d+)')
LARGEST = 1 << 20
"""A window with more positions is a misread text."""


class Declared(NamedTuple):
    """What a kernel says that it does (Pallas's `CostEstimate`); zeros where it says nothing."""

    flops: int = 0
    transcendentals: int = 0
    bytes_accessed: int = 0


def products(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Instruction, int]]:
    """The products that an instruction is or fuses, with the FLOPs of one run."""
    if instruction.opcode == "fusion":
        for where, inner in module.inside(instruction):
            if inner.opcode in ("dot", "convolution"):
                yield inner, flops(where, inner)
    elif instruction.opcode in ("dot", "convolution") or _in_library(instruction):
        yield instruction, flops(computation, instruction)


def custom(module: Module, instruction: Instruction) -> Iterator[tuple[str, Declared]]:
    """Custom calls and ragged products that an instruction is or fuses, with the work that their
    kernels declare."""
    fusion = instruction.opcode == "fusion"
    for one in [one for _, one in module.inside(instruction)] if fusion else [instruction]:
        called = target(one)
        if (called and not is_free(one)) or one.opcode.startswith("ragged-dot"):
            declared = _DECLARED.search(one.backend_config)
            found = _WORK.findall(declared[1]) if declared else ()
            yield called or one.opcode, Declared(**{name: integer(count) for name, count in found})


def flops(computation: Computation, instruction: Instruction) -> int:
    """FLOPs of one product."""
    if instruction.opcode == "convolution" or target(instruction).startswith("__cudnn$conv"):
        return _convolution(computation, instruction)
    left = computation.shape(instruction, 0)
    if instruction.opcode == "dot":
        contracted = integers(instruction.attribute("lhs_contracting_dims"))
        out = only(instruction)
    else:
        gemm = instruction.config().get("gemm_backend_config")
        numbers = gemm.get("dot_dimension_numbers") if isinstance(gemm, dict) else None
        listed = numbers.get("lhs_contracting_dimensions") if isinstance(numbers, dict) else None
        contracted = tuple(integer(str(d)) for d in listed) if isinstance(listed, list) else ()
        out = instruction.shapes[0]
    return 2 * out.elements * prod(_at(left, axis, instruction) for axis in contracted)


def _in_library(instruction: Instruction) -> bool:
    """Whether it is a product that a GPU's library computes."""
    return target(instruction).startswith(("__cublas$", "__cudnn$conv"))


def _convolution(computation: Computation, instruction: Instruction) -> int:
    """Multiply-adds of values that are there: neither padding nor the holes of a dilation.

    Without that, a batched product counts a multiple of its work: TPU writes it as a convolution
    over an input dilated so far that each window meets one value.
    """
    labels = _LABELS.fullmatch(instruction.attribute("dim_labels"))
    if labels is None:
        raise HloError(f"{instruction.name} has no dim_labels")
    shapes = computation.shape(instruction, 0), computation.shape(instruction, 1)
    given, kernel, out = _roles(target(instruction), *shapes, instruction.shapes[0])
    window = _window(instruction)
    pairs = 1
    for name in (label for label in labels[2] if label.isdigit()):
        sizes = [
            _at(shape, text.find(name), instruction)
            for shape, text in zip((given, kernel, out), labels.groups(), strict=True)
        ]
        pairs *= _meetings(*sizes, **{key: value[int(name)] for key, value in window.items()})
    rest = prod(_at(out, labels[3].find(label), instruction) for label in "bf")
    return 2 * rest * pairs * _at(kernel, labels[2].find("i"), instruction)


def _roles(called: str, one: Shape, other: Shape, result: Shape) -> tuple[Shape, Shape, Shape]:
    """Input, kernel and output of the convolution that a GPU's library call stems from.

    A gradient is printed with the window and the labels of the forward convolution.
    """
    match called:
        case "__cudnn$convBackwardInput":
            return result, other, one
        case "__cudnn$convBackwardFilter":
            return one, result, other
    return one, other, result


def _window(instruction: Instruction) -> dict[str, list[int]]:
    text = instruction.attribute("window")
    parts = dict(part.split("=", 1) for part in text.split() if "=" in part)
    labels = instruction.attribute("dim_labels").split("->")[0]
    rank = max((int(label) + 1 for label in labels if label.isdigit()), default=0)
    found: dict[str, list[int]] = {}
    for key, name in (("stride", "stride"), ("holes", "lhs_dilate"), ("dilate", "rhs_dilate")):
        given = parts.get(name)
        found[key] = [integer(one) for one in given.split("x")] if given else [1] * rank
    pads = parts.get("pad")
    lows = [pad.split("_")[0] for pad in pads.split("x")] if pads else ["0"] * rank
    found["low"] = [-integer(low[1:]) if low.startswith("-") else integer(low) for low in lows]
    if any(len(values) != rank for values in found.values()):
        raise HloError(f"{instruction.name} has a window of another rank: {text!r}")
    return found


def _meetings(
    given: int, kernel: int, out: int, *, stride: int, holes: int, dilate: int, low: int
) -> int:
    """Along one axis: how many pairs of an output and a kernel position meet a value."""
    if kernel > LARGEST or not (stride and holes and given):
        raise HloError(f"no window: {kernel} positions, stride {stride}, dilation {holes}")
    last = (given - 1) * holes
    every = holes // gcd(stride, holes)
    count = 0
    for position in range(kernel):
        begin = position * dilate - low
        if begin % gcd(stride, holes):
            continue
        # outputs `at` with 0 <= at * stride + begin <= last, and that a multiple of `holes`
        first = max(0, -(begin // stride))
        until = min(out - 1, (last - begin) // stride)
        for at in range(first, first + every):
            if (at * stride + begin) % holes == 0:
                count += max(0, (until - at) // every + 1)
                break
    return count


def _at(shape: Shape, axis: int, instruction: Instruction) -> int:
    if not 0 <= axis < len(shape.dims):
        raise HloError(f"{instruction.name} names axis {axis} of {len(shape.dims)}")
    return shape.dims[axis]

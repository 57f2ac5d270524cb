"""Shapes as HLO text prints them: `bf16[512,256]{1,0:T(8,128)(2,1)S(1)}`."""

import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from fusekit.errors import HloError

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0, "tf32": 32, "c64": 64, "c128": 128}
_NUMBER = re.compile(r"[suf](\d+)(e\d+m\d+\w*)?")
_SHAPE = re.compile(r"([a-z]\w*)\[([^\[\]]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_ELEMENT = re.compile(r"E\((\d+)\)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_DIGITS = 18


@dataclass(frozen=True)
class Shape:
    """One array.

    Args:
      dims: a dynamic dimension counts as its bound.
      space: the memory it lives in: 0 is main memory (HBM), on TPU 1 is VMEM, 2 semaphores, 5 the
        host's memory, 6 SMEM.
      bits: of one element.
      padded: the elements that are stored, those among them that pad tiles; none if there are no
        tiles, as on CPU and GPU.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0
    bits: int = 0
    padded: int | None = None

    @property
    def elements(self) -> int:
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        return self.bytes_of(self.elements)

    @property
    def stored(self) -> int:
        """Bytes with the padding of tiles."""
        return self.bytes_of(self.elements if self.padded is None else self.padded)

    def bytes_of(self, elements: int) -> int:
        """Bytes of so many elements."""
        return (elements * self.bits + 7) // 8


@lru_cache(maxsize=100_000)
def shapes_of(text: str) -> tuple[Shape, ...]:
    """The arrays of a shape in order, those of nested tuples among them."""
    found = tuple(_shape(*match.groups()) for match in _SHAPE.finditer(text))
    if not found and text.replace(" ", "") != "()":
        raise HloError(f"no shape: {text[:80]!r}")
    return found


def _shape(dtype: str, dims: str, layout: str | None) -> Shape:
    sizes = tuple(integer(dim.strip().removeprefix("<=")) for dim in dims.split(",") if dim.strip())
    space = _SPACE.search(layout or "")
    element = _ELEMENT.search(layout or "")
    bits = integer(element[1]) if element else _bits(dtype)
    return Shape(
        dtype, sizes, integer(space[1]) if space else 0, bits, _padded(sizes, layout or "")
    )


def _padded(dims: tuple[int, ...], layout: str) -> int | None:
    """Elements with padding: under `{0,1:T(8,128)}` the minor axis, here 0, is stored in multiples
    of 128 and the next in multiples of 8."""
    order, _, rest = layout.partition(":")
    tile = _TILE.match(rest)
    axes = integers(order)
    if tile is None or sorted(axes) != list(range(len(dims))):
        return None
    steps = integers(tile[1])[::-1]
    sizes = [dims[axis] for axis in axes] + [1] * (len(steps) - len(axes))
    inner = (-(-size // max(step, 1)) * step for size, step in zip(sizes, steps, strict=False))
    return prod(inner) * prod(sizes[len(steps) :])


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    number = _NUMBER.fullmatch(dtype)
    if number is None:
        raise HloError(f"no element type: {dtype!r}")
    return integer(number[1])


def integer(text: str) -> int:
    """A number as text, without a sign. Raises `HloError`."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise HloError(f"no number: {text[:40]!r}")
    return int(text)


def integers(text: str) -> tuple[int, ...]:
    """Numbers between commas."""
    return tuple(integer(part) for part in text.split(",") if part.strip())

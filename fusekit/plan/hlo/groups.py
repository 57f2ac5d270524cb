"""Which devices take part in a collective together, in each of the forms that XLA prints.

`{{0,1},{2,3}}` lists the groups; `[4,2]<=[2,4]T(1,0)` takes 0, 1, 2 …, gives it the shape (2, 4),
transposes it by (1, 0) and cuts it into 4 groups of 2; `mesh['a'=2,'b'=4] {'b'}` varies axis `b`
of a mesh, `{'b':(2)2}` only the part of size 2 of `b` that has 2 before it.
"""

import re
from functools import lru_cache
from math import prod

import numpy as np

from fusekit.errors import HloError
from fusekit.plan.hlo.shapes import integer, integers

Groups = tuple[tuple[int, ...], ...]

MANY = 1 << 20
"""More devices than this is no mesh but a misread text."""

_LISTED = re.compile(r"\{([\d,\s]*)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"@?mesh\[([^\[\]]*)\](?:, device_ids=\((?:\[([\d,]+)\]T\(([\d,]+)\)|([\d,\s]+))\))? \{(.*)\}"
)
_AXIS = re.compile(r"'([^']*)'=(\d+)")
_PART = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")


@lru_cache(maxsize=10_000)
def groups_of(text: str) -> Groups:
    """The groups; none if all devices form one, which XLA prints as `{}`."""
    text = text.strip()
    if text.startswith("{"):
        return tuple(integers(group) for group in _LISTED.findall(text[1:-1]) if group.strip())
    iota = _IOTA.fullmatch(text)
    if iota:
        shape = integers(iota[1])
        if len(shape) != 2:
            raise HloError(f"replica groups are not two-dimensional: {text!r}")
        return _rows(_transposed(integers(iota[2]), iota[3]), *shape)
    mesh = _MESH.fullmatch(text)
    if mesh:
        return _of_mesh(*mesh.groups())
    raise HloError(f"no replica groups: {text[:80]!r}")


def _of_mesh(axes: str, dims: str, order: str, listed: str, varied: str) -> Groups:
    sizes = {name: integer(size) for name, size in _AXIS.findall(axes)}
    count = _checked(tuple(sizes.values()))
    if dims:
        ids = _transposed(integers(dims), order)
    else:
        ids = np.array(integers(listed)) if listed else np.arange(count)
    if ids.size != count:
        raise HloError(f"a mesh of {count} devices lists {ids.size}")
    shape: list[int] = []
    inner: list[int] = []
    parts = [(name, before, size) for name, before, size in _PART.findall(varied)]
    for name, size in sizes.items():
        cuts = sorted((integer(b), integer(s)) for n, b, s in parts if n == name and s)
        if not cuts and any(n == name for n, _, _ in parts):
            cuts = [(1, size)]
        done = 1
        for before, part in cuts:
            if before % done or not part or size % (before * part):
                raise HloError(f"axis {name} of size {size} has no part ({before}){part}")
            inner.append(len(shape) + 1)
            shape += [before // done, part]
            done = before * part
        shape.append(size // done)
    grid = ids.reshape(shape)
    outer = [axis for axis in range(grid.ndim) if axis not in inner]
    width = prod(grid.shape[axis] for axis in inner)
    return _rows(grid.transpose(outer + inner), count // max(width, 1), width)


def _transposed(dims: tuple[int, ...], order: str | None) -> np.ndarray:
    grid = np.arange(_checked(dims)).reshape(dims)
    if order is None:
        return grid
    axes = integers(order)
    if sorted(axes) != list(range(len(dims))):
        raise HloError(f"{axes} does not order {len(dims)} axes")
    return grid.transpose(axes)


def _checked(dims: tuple[int, ...]) -> int:
    if not 0 < prod(dims) <= MANY:
        raise HloError(f"no mesh has the shape {dims[:10]}")
    return prod(dims)


def _rows(ids: np.ndarray, count: int, size: int) -> Groups:
    if ids.size != count * size:
        raise HloError(f"{ids.size} devices do not form {count} groups of {size}")
    return tuple(tuple(row) for row in ids.reshape(count, size).tolist())

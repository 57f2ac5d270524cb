"""Where the devices that a text names stand in the mesh."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from fusekit.errors import HloError
from fusekit.plan.hlo.groups import MANY


@dataclass(frozen=True)
class Placement:
    """A mesh whose flattened positions are the devices' numbers, cut into slices.

    A program over several TPU slices is compiled once for all of them: its text numbers the
    devices of one slice, by their positions in the mesh's order. Slices follow each other in the
    order of the runtime's numbers.

    Args:
      slice_of: by position, the slice.
      members: by slice, its positions in order.
      whole: whether the text numbers the devices of all slices.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    slice_of: np.ndarray
    members: tuple[tuple[int, ...], ...]
    whole: bool

    @staticmethod
    def of(
        mesh_shape: Mapping[str, int], devices: int, slices: int = 1, slice_axis: str | None = None
    ) -> "Placement":
        """The placement of a text for so many devices.

        Args:
          slice_axis: the axis along which the slices follow each other, each a block of it;
            without it, each slice is a block of the flattened mesh.
        """
        sizes = tuple(mesh_shape.values())
        count = prod(sizes)
        if not 0 < count <= MANY or slices < 1 or count % slices:
            raise HloError(f"the mesh {dict(mesh_shape)} does not divide into {slices} slices")
        if devices not in (count, count // slices):
            raise HloError(f"the text is for {devices} devices, the mesh has {count}")
        if slice_axis is None:
            slice_of = np.arange(count) // (count // slices)
        else:
            if slice_axis not in mesh_shape or mesh_shape[slice_axis] % slices:
                raise HloError(f"axis {slice_axis} does not divide into {slices} slices")
            at = list(mesh_shape).index(slice_axis)
            along = np.unravel_index(np.arange(count), sizes)[at]
            slice_of = along // (mesh_shape[slice_axis] // slices)
        members = tuple(
            tuple(np.flatnonzero(slice_of == number).tolist()) for number in range(slices)
        )
        return Placement(tuple(mesh_shape), sizes, slice_of, members, devices == count)

    def position(self, device: int) -> int:
        """The position of a device by its number in the text."""
        members = self.everyone
        if not 0 <= device < len(members):
            raise HloError(f"there is no device {device} among {len(members)}")
        return members[device]

    def first_of(self, number: int) -> int:
        """The first position of a slice."""
        if not 0 <= number < len(self.members):
            raise HloError(f"there is no slice {number} among {len(self.members)}")
        return self.members[number][0]

    @cached_property
    def everyone(self) -> tuple[int, ...]:
        """All positions that the text numbers."""
        return tuple(range(prod(self.sizes))) if self.whole else self.members[0]

    def varied(self, groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """The axes along which positions differ within a group."""
        found: set[int] = set()
        for where in self._tables(groups):
            along = np.unravel_index(where, self.sizes)
            found |= {axis for axis, one in enumerate(along) if np.ptp(one, axis=1).any()}
        return tuple(self.axes[axis] for axis in sorted(found))

    def crosses(self, groups: Sequence[Sequence[int]]) -> bool:
        """Whether a group has devices of several slices."""
        return any(np.ptp(self.slice_of[where], axis=1).any() for where in self._tables(groups))

    def _tables(self, groups: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """The groups as tables, one for each size of a group."""
        for size in {len(group) for group in groups} - {0}:
            yield np.array([group for group in groups if len(group) == size])

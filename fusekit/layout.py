"""Layouts: a mesh and two rule tables that map logical axes to mesh axes.

`params` rules place parameters and optimiser moments, `activations` rules place streams. An axis
that does not divide, or whose mesh axis is taken by an earlier axis of the same array, stays whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.errors import LayoutError
from fusekit.stream import Stream

AXES = ("data", "fsdp", "expert", "sequence", "tensor")

Rules = Mapping[str, str | tuple[str, ...] | None]

PARAMS: Rules = {
    "vocab": "tensor",
    "mlp": "tensor",
    "heads": "tensor",
    "expert": "expert",
    "embed": "fsdp",
    "features": "fsdp",
}
ACTIVATIONS: Rules = {"batch": ("data", "fsdp", "expert"), "time": "sequence"}


@dataclass(frozen=True)
class Layout:
    """A mesh of devices and what goes where.

    Args:
      mesh: with the axes `data fsdp expert sequence tensor`.
      params: rules for parameters, by logical axis.
      activations: rules for streams: `batch`, `time`, `embed`.
      components: other rules of some nodes, by table (`params`, `activations`), over these.
    """

    mesh: Mesh
    params: Rules = field(default_factory=lambda: PARAMS)
    activations: Rules = field(default_factory=lambda: ACTIVATIONS)
    components: Mapping[str, Mapping[str, Rules]] = field(default_factory=dict)

    @staticmethod
    def of(
        sizes: Mapping[str, int] | None = None,
        *,
        devices: Sequence[Any] | None = None,
        slices: str = "data",
        params: Rules | None = None,
        activations: Rules | None = None,
        components: Mapping[str, Mapping[str, Rules]] | None = None,
    ) -> "Layout":
        """A layout over devices; sizes of -1 are `filled`. Default: one device.

        Of several TPU slices each is a block of the axis `slices`, so that only this axis crosses
        the network between them; within one, axes follow the links.

        Raises `LayoutError` if the sizes do not multiply to a number of devices that there are.
        """
        devices = list(jax.devices() if devices is None else devices)
        wanted = dict.fromkeys(AXES, 1) | dict(sizes or {})
        unknown = set(wanted) - set(AXES)
        if unknown:
            raise LayoutError(f"no mesh axis is called {', '.join(sorted(unknown))}: {AXES}")
        wanted = filled(wanted, len(devices), len(devices) // blocks(devices))
        count = prod(wanted.values())
        if count > len(devices):
            raise LayoutError(
                f"the mesh {_sizes(wanted)} needs {count} devices; there are {len(devices)}"
            )
        shape = tuple(wanted[axis] for axis in AXES)
        return Layout(
            Mesh(_grid(shape, devices[:count], slices), AXES),
            dict(PARAMS) | dict(params or {}),
            dict(ACTIVATIONS) | dict(activations or {}),
            dict(components or {}),
        )

    def of_node(self, name: str) -> "Layout":
        """The layout with the rules of one node; of a part's node, those of what it repeats."""
        declared = "" if name.startswith(("batch.", "losses.")) else name.rpartition(".")[2]
        own = self.components.get(declared)
        if not own:
            return self
        params = {**self.params, **own.get("params", {})}
        return Layout(self.mesh, params, {**self.activations, **own.get("activations", {})})

    @property
    def size(self) -> int:
        return self.mesh.size

    def rows(self) -> int:
        """Into how many parts the batch is cut."""
        axes = self.activations.get("batch") or ()
        return prod(self.mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes))

    def of_param(self, shape: tuple[int, ...], axes: Sequence[str | None]) -> NamedSharding:
        """Where an array with these logical axes lives."""
        return NamedSharding(self.mesh, self._spec(shape, axes, self.params))

    def gathered(self, params: Any, axes: Mapping[tuple[Any, ...], Sequence[str | None]]) -> Any:
        """One unit's parameters as they are computed with: whole along `fsdp`, which only stores.

        Gathering at the point of use keeps the memory of sharded storage, and leaves the
        partitioner no choice of how to multiply: left free, it was seen to give wrong gradients
        where batch and weights share a mesh axis (openxla/xla issue 40034; docs/design/003).
        """
        if self.size == 1:
            return params
        rules = {axis: _without(rule, "fsdp") for axis, rule in self.params.items()}

        def one(path: Any, leaf: Any) -> Any:
            keys = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
            spec = self._spec(leaf.shape, axes[keys], rules)
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(one, params)

    def of_stream(self, shape: tuple[int, ...], axes: Sequence[str | None]) -> NamedSharding:
        return NamedSharding(self.mesh, self._spec(shape, axes, self.activations))

    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    def batch(self, leaf: Any) -> NamedSharding:
        """Where an array with a leading batch axis lives. Raises `LayoutError` if the batch does
        not divide over the mesh."""
        if leaf.shape[0] % self.rows():
            raise LayoutError(
                f"a batch of {leaf.shape[0]} does not divide over {self.rows()} parts of the mesh"
            )
        return self.of_stream(leaf.shape, ("batch",) + (None,) * (len(leaf.shape) - 1))

    def constrain(self, stream: Stream) -> Stream:
        """The stream, annotated at a component's boundary. One device: as it is."""
        if self.size == 1:
            return stream
        axes = ["batch"] + [None] * (stream.values.ndim - 1)
        if stream.values.ndim > 1 + bool(stream.spans):
            axes[-1] = "embed"
        if stream.spans and stream.values.ndim > 1:
            axes[1] = "time"
        sharding = self.of_stream(stream.values.shape, axes)
        return stream.with_(values=jax.lax.with_sharding_constraint(stream.values, sharding))

    def _spec(self, shape: tuple[int, ...], axes: Sequence[str | None], rules: Rules) -> P:
        taken: set[str] = set()
        parts: list[Any] = []
        for size, axis in zip(shape, axes, strict=True):
            rule = rules.get(axis) if axis else None
            names = (rule,) if isinstance(rule, str) else tuple(rule or ())
            fit = [n for n in names if n not in taken and self.mesh.shape[n] > 1]
            if not fit or size % prod(self.mesh.shape[n] for n in fit):
                parts.append(None)
                continue
            taken.update(fit)
            parts.append(tuple(fit) if len(fit) > 1 else fit[0])
        return P(*parts)


def filled(sizes: Mapping[str, int], devices: int, block: int) -> dict[str, int]:
    """Sizes with numbers in place of -1: what the other axes leave of `devices`. If `data` and
    `fsdp` are both -1, `fsdp` takes what is left of a block, within which links are fast, and
    `data` goes from block to block.

    Raises `LayoutError` if devices do not divide, or other axes share the rest.
    """
    found = dict(sizes)
    rest = [axis for axis, size in found.items() if size == -1]
    known = prod(size for size in found.values() if size != -1)
    if set(rest) == {"data", "fsdp"}:
        if block % known:
            raise LayoutError(f"{block} devices of one slice or machine do not divide by {known}")
        found["fsdp"] = block // known
        rest, known = ["data"], block
    if len(rest) > 1:
        raise LayoutError("one mesh axis takes what the others leave (-1), or data and fsdp do")
    if rest:
        if devices % known:
            raise LayoutError(f"{devices} devices do not divide by {known}")
        found[rest[0]] = devices // known
    return found


def blocks(devices: Sequence[Any]) -> int:
    """How many TPU slices these devices are of; of other devices, how many processes."""
    tpu = devices[0].platform == "tpu"
    return len({getattr(d, "slice_index", 0) if tpu else d.process_index for d in devices})


def _grid(shape: tuple[int, ...], devices: Sequence[Any], slices: str) -> Any:
    """Devices in the shape of a mesh. Raises `LayoutError`."""
    if devices[0].platform != "tpu" or len(devices) == 1:
        return np.asarray(devices).reshape(shape)
    from jax.experimental import mesh_utils

    count = len({getattr(device, "slice_index", 0) for device in devices})
    if count == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    at = AXES.index(slices)
    if shape[at] % count:
        message = f"the axis {slices} crosses {count} slices, which do not divide its {shape[at]}"
        raise LayoutError(message)
    inner = tuple(size // count if n == at else size for n, size in enumerate(shape))
    outer = tuple(count if n == at else 1 for n in range(len(shape)))
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, allow_split_physical_axes=True
    )


def _without(rule: str | tuple[str, ...] | None, axis: str) -> tuple[str, ...]:
    names = (rule,) if isinstance(rule, str) else tuple(rule or ())
    return tuple(name for name in names if name != axis)


def _sizes(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1) or "1"

"""What a step costs by formulas, without a compiler: to choose which layouts to compile.

State is exact: every array over what its sharding cuts it into. FLOPs are counted on the traced
step. Time of compute is that of every product by itself, the longer of FLOPs over the peak and
bytes over the memory's rate, since a device waits for each; to this comes what elements need, what
is kept between the passes, and the optimiser's traffic. Rows are cut by `data`, `fsdp` and
`expert`; what `tensor` cuts and what every device of it does whole follows from the parameters
(`fusekit.plan.work`). Microbatches keep a part of the rows at a time, and for it read weights, sum
gradients and gather over `fsdp` as often.

Collectives follow from the layout, in the width of numbers that the step computes with: gradients
are summed along the axes that cut rows, also those of which a device keeps a part; along `fsdp`
weights are gathered forward, and backward too unless the forward pass keeps them; along `tensor`
parts of sums are summed; along `expert` rows are gathered to the experts and what these give is
scattered, which is as much as a sum.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import jax

from fusekit.graph.graph import Graph
from fusekit.layout import AXES
from fusekit.plan.compiled import Axes, Measure, state_bytes
from fusekit.plan.traced import Traced, abstract_layout, named, size_of
from fusekit.plan.work import Kind, Work
from fusekit.program import Program
from fusekit_tpu.topology import Topology

CUT_ROWS = ("data", "fsdp", "expert", "sequence")
VECTOR = {"tpu": 1 / 128, "cuda": 1 / 15}
"""Rate of operations on elements, of that of products. A TPU begins one on 8 x 128 elements each
cycle (it has units for four, which its compiler's schedules seldom fill): v5e 1.5 T of 197 T a
second. An H100 has 67 T of 989 T."""
OPTIMISER = 3
"""Times that the bytes of the state pass in an update: read, written, and gradients with these."""
KEPT = {"scan": 3, "unroll": 2}
"""Times that what is kept passes: written and read; by a loop made blank before."""
ADDED = 3
"""Times that gradients pass for each microbatch: two are read, their sum is written."""


@dataclass(frozen=True)
class Held:
    """What devices of a mesh hold.

    Args:
      sizes: of the mesh axes.
      rows: parts of the batch.
      state: bytes of parameters, moments and statistics of a device.
      weights: bytes of the parameters of a device, by the axes that cut them.
    """

    sizes: Mapping[str, int]
    rows: int
    state: float
    weights: Mapping[frozenset[str], float]

    def per(self, kind: Kind) -> int:
        """Over how many devices an array, or what is done to it, is cut."""
        return (self.rows if kind.rows else 1) * (self.sizes["tensor"] if kind.split else 1)


def held(graph: Graph, sizes: Mapping[str, int]) -> Held:
    """What devices of a mesh hold of a graph."""
    over = {axis: sizes.get(axis, 1) for axis in AXES}
    layout = abstract_layout(over, **graph.experiment.mesh.rules())
    states, found = Program(graph, layout=layout).states, defaultdict[frozenset[str], float](float)
    leaves, places = (jax.tree.leaves(t.params) for t in (states.abstract, states.shardings))
    for leaf, place in zip(leaves, places, strict=True):
        names = frozenset(named(place.spec))
        found[names] += size_of(leaf) // prod(over[name] for name in names)
    return Held(over, layout.rows() * over["sequence"], state_bytes(states), found)


def analytic(
    graph: Graph,
    traced: Traced,
    on: Held | Mapping[str, int],
    topology: Topology,
    *,
    microbatches: int | None = None,
    layers: Literal["scan", "unroll"] = "scan",
) -> Measure:
    """The cost of one step on one device of a mesh.

    Args:
      graph: of one stage.
      traced: what `traced_step` gave.
      on: sizes of the mesh axes, or what `held` gave for them.
      topology: that they are laid over.
      microbatches: default as the experiment has it.
      layers: whether what is kept is stacked by a loop.
    """
    on = on if isinstance(on, Held) else held(graph, on)
    parts = microbatches or graph.experiment.mesh.microbatches
    own = sum(on.weights.values())
    rows = sum(size / on.per(kind) for kind, size in traced.kept_of.items() if kind.rows)
    copies = sum(size / on.per(kind) for kind, size in traced.kept_of.items() if not kind.rows)
    work, again = traced.work["tensor"], 1 + (parts > 1)
    turn = sum(
        size / on.per(kind) / (parts if kind.rows else 1) for kind, size in work.turn.items()
    )
    passing = OPTIMISER * on.state + KEPT[layers] * (rows + parts * copies)
    passing += ADDED * parts * own if parts > 1 else 0
    moved = sum(size for one in work.products for size in _moved(one.bytes, on.per, parts))
    crossing = graph.experiment.mesh.slices if topology.slices > 1 else None
    sent = {
        axes: size * (1 - 1 / prod(on.sizes[axis] for axis in axes))
        for axes, size in _sent(traced, on, parts).items()
        if size
    }
    devices = on.rows * on.sizes["tensor"]
    rate = topology.chip.hbm_rate / topology.chip.devices
    return Measure(
        peak=on.state + again * own + rows / parts + copies + turn,
        flops=traced.flops / devices,
        compute=_compute(work, on.per, parts, topology) + passing / rate,
        hbm=passing + moved,
        ici={axes: size for axes, size in sent.items() if crossing not in axes},
        dcn={axes: size for axes, size in sent.items() if crossing in axes},
        flops_of={node: flops / devices for node, flops in traced.flops_of.items()},
        state=on.state,
        fits=None,
    )


def _moved(found: Mapping[Kind, float], per: Callable[[Kind], int], parts: int) -> list[float]:
    """Bytes of a product on a device: what has no rows once for every microbatch."""
    return [size / per(kind) * (1 if kind.rows else parts) for kind, size in found.items()]


def _compute(work: Work, per: Callable[[Kind], int], parts: int, topology: Topology) -> float:
    """Seconds of products and of operations on elements."""
    chip, devices = topology.chip, topology.chip.devices
    peak = (chip.reached_flops or chip.flops) / devices
    rate = (chip.reached_rate or chip.hbm_rate) / devices
    products = sum(
        max(one.flops / per(one.cut) / peak, sum(_moved(one.bytes, per, parts)) / rate)
        for one in work.products
    )
    elements = sum(count / per(kind) for kind, count in work.vector.items())
    return products + elements / (peak * VECTOR[chip.platform])


def _sent(traced: Traced, on: Held, parts: int) -> dict[Axes, float]:
    """Bytes that go round the devices of mesh axes."""
    narrow, found = traced.width / 4, defaultdict[Axes, float](float)
    weights = sum(size * _uncut(names, on) for names, size in on.weights.items()) * narrow
    copied = sum(size / on.per(kind) for kind, size in traced.kept_of.items() if not kind.rows)
    gathers = 2 - min(1.0, copied / weights)
    for names, size in on.weights.items():
        whole = size * narrow * _uncut(names, on) * parts
        cutting = [axis for axis in CUT_ROWS if on.sizes[axis] > 1]
        axes = tuple(axis for axis in cutting if axis == "fsdp" or axis not in names)
        if axes:
            found[axes] += 2 * whole
        if "fsdp" in names:
            found["fsdp",] += gathers * whole
    for axis in ("tensor", "expert"):
        summed = traced.work[axis].summed
        over = on.rows // on.sizes["expert"] if axis == "expert" else on.rows
        if on.sizes[axis] > 1:
            found[axis,] += 2 * (summed[True] / over + summed[False])
    return dict(found)


def _uncut(names: frozenset[str], on: Held) -> int:
    """What a device computes with, of what it holds: whole along `fsdp`."""
    return on.sizes["fsdp"] if "fsdp" in names else 1

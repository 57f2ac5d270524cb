"""What a step costs by formulas, without a compiler: to choose which layouts to compile.

State is exact: every array over what its sharding cuts it into. FLOPs are counted on the traced
step. Time of compute is that of every product by itself, the longer of FLOPs over the peak and
bytes over the memory's rate, since a device waits for each; to this comes what elements need, what
is kept between the passes, and the optimiser's traffic. Rows are cut by `data`, `fsdp` and
`expert`; what `tensor` cuts and what every device of it does whole follows from the parameters
(`fusekit.plan.work`).

Collectives follow from the layout, in the width of numbers that the step computes with. Along
`fsdp` weights are gathered forward and backward, and gradients scattered; along `data`, `expert`
and `sequence` gradients are summed; along `tensor` the parts of sums; along `expert` rows are
gathered to the experts and what these give is scattered, which is as much as a sum.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import jax

from fusekit.graph.graph import Graph
from fusekit.layout import AXES
from fusekit.plan.compiled import Axes, Measure, state_bytes
from fusekit.plan.traced import Traced, abstract_layout, named, size_of
from fusekit.plan.work import Kind, Work
from fusekit.program import Program
from fusekit_tpu.topology import Topology

GATHERS = 2
"""Times that a weight is gathered over `fsdp` in a step: forward and backward."""
VECTOR = 1 / 32
"""Rate of operations on elements, of that of products. v5e: 8 x 128 x 4 lanes at 1.5 GHz."""
OPTIMISER = 3
"""Times that the bytes of the state pass in an update: read, written, and gradients with these."""
KEPT = 3
"""Times that what a loop keeps passes: made blank, written, read."""


def analytic(graph: Graph, traced: Traced, sizes: Mapping[str, int], topology: Topology) -> Measure:
    """The cost of one step on one device of a mesh.

    Args:
      graph: of one stage.
      traced: what `traced_step` gave.
      sizes: of the mesh axes.
      topology: that they are laid over.
    """
    mesh = graph.experiment.mesh
    layout = abstract_layout(sizes, mesh.params, mesh.activations)
    states = Program(graph, layout=layout).states
    over = {axis: sizes.get(axis, 1) for axis in AXES}
    rows = layout.rows() * over["sequence"]

    def per(kind: Kind) -> float:
        """Over how many devices an array or what is done to it is cut."""
        return (rows if kind.rows else 1) * (over["tensor"] if kind.split else 1)

    weights = _weights(states, over)
    state, own = state_bytes(states), sum(weights.values())
    kept = sum(size / per(kind) for kind, size in traced.kept_of.items())
    work = traced.work["tensor"]
    moved = sum(size / per(k) for one in work.products for k, size in one.bytes.items())
    passing = OPTIMISER * state + KEPT * kept
    ici, dcn = _sent(traced, weights, over, rows, mesh.slices if topology.slices > 1 else None)
    devices = rows * over["tensor"]
    rate = topology.chip.hbm_rate / topology.chip.devices
    return Measure(
        peak=state + own + kept,
        flops=traced.flops / devices,
        compute=_compute(work, per, topology) + passing / rate,
        hbm=passing + moved,
        ici=ici,
        dcn=dcn,
        flops_of={node: flops / devices for node, flops in traced.flops_of.items()},
        state=state,
        fits=None,
    )


def _compute(work: Work, per: Any, topology: Topology) -> float:
    """Seconds of products and of operations on elements."""
    chip, devices = topology.chip, topology.chip.devices
    peak, rate = chip.flops / devices, chip.hbm_rate / devices
    products = sum(
        max(
            one.flops / per(one.cut) / peak,
            sum(size / per(kind) for kind, size in one.bytes.items()) / rate,
        )
        for one in work.products
    )
    elements = sum(count / per(kind) for kind, count in work.vector.items())
    return products + elements / (peak * VECTOR)


def _sent(
    traced: Traced,
    weights: Mapping[frozenset[str], float],
    over: Mapping[str, int],
    rows: int,
    crossing: str | None,
) -> tuple[dict[Axes, float], dict[Axes, float]]:
    """Bytes that a device sends by mesh axes, within a slice and between slices."""
    narrow = traced.width / 4
    sent = dict.fromkeys(AXES, 0.0)
    for names, size in weights.items():
        whole = size * narrow * (over["fsdp"] if "fsdp" in names else 1)
        sent["fsdp"] += (GATHERS + 1 if "fsdp" in names else 2) * whole
        for axis in ("data", "expert", "sequence"):
            sent[axis] += 0 if axis in names else 2 * size * narrow
    for axis in ("tensor", "expert"):
        summed = traced.work[axis].summed
        parts = rows // over["expert"] if axis == "expert" else rows
        sent[axis] += 2 * (summed[True] / parts + summed[False])
    ring = {axis: size * (over[axis] - 1) / over[axis] for axis, size in sent.items()}
    ici: dict[Axes, float] = {(a,): size for a, size in ring.items() if size and a != crossing}
    dcn: dict[Axes, float] = {(a,): size for a, size in ring.items() if size and a == crossing}
    return ici, dcn


def _weights(states: Any, over: Mapping[str, int]) -> dict[frozenset[str], float]:
    """Bytes of parameters that a device holds, by the axes that cut them."""
    found: dict[frozenset[str], float] = {}
    leaves, places = (jax.tree.leaves(t.params) for t in (states.abstract, states.shardings))
    for leaf, place in zip(leaves, places, strict=True):
        names = frozenset(named(place.spec))
        size = size_of(leaf) / prod(over[name] for name in names)
        found[names] = found.get(names, 0.0) + size
    return found

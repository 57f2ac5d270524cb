"""What a step costs by formulas, without a compiler: to choose which layouts to compile.

State is exact: every array over what its sharding cuts it into. Activations are what
differentiation keeps, over the parts of the batch, and half of it over `tensor` too. FLOPs are
counted on the traced step. Collectives follow from the layout: along `fsdp` weights are gathered
forward and backward and gradients scattered; along `data`, `expert` and `sequence` gradients are
summed; along `tensor` every layer sums its output twice forward and twice backward.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.sharding import AbstractMesh

from fusekit.batch import blank
from fusekit.context import DTYPES, Context
from fusekit.graph.graph import Graph
from fusekit.jaxprs import inner_jaxprs
from fusekit.layout import ACTIVATIONS, AXES, PARAMS, Layout
from fusekit.objective import loss
from fusekit.plan.compiled import Axes, Measure, state_bytes
from fusekit.program import Program
from fusekit.report.flops import count

SUMS_OF_LAYER = 4
"""All-reduces of a layer over `tensor`: after attention and after the network, both ways."""
GATHERS = 2
"""Times that a weight is gathered over `fsdp` in a step: forward and backward."""


def abstract_layout(
    sizes: Mapping[str, int], params: Any = None, activations: Any = None, components: Any = None
) -> Layout:
    """A layout over devices that nobody has named."""
    mesh: Any = AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)
    params, activations = {**PARAMS, **(params or {})}, {**ACTIVATIONS, **(activations or {})}
    return Layout(mesh, params, activations, components or {})


@dataclass(frozen=True)
class Traced:
    """What a train step needs whatever the layout.

    Args:
      flops_of: by node, for the whole batch: forward, backward and what is computed again.
      kept: bytes that the forward pass keeps for the backward pass, for the whole batch.
      summed: bytes of what layers give, which `tensor` sums, for the whole batch.
      weights: bytes of parameters.
      moved: bytes that products read and write, for the whole batch.
    """

    flops_of: dict[str, float]
    kept: float
    summed: float
    weights: float
    moved: float

    @property
    def flops(self) -> float:
        return sum(self.flops_of.values())


def traced_step(graph: Graph, batch: int) -> Traced:
    """Traces the loss and its gradient; allocates nothing."""
    train = graph.experiment.train
    model = Program(graph, layers="scan", layout=abstract_layout({})).model
    context = Context(mode="train", key=jax.random.key(0), dtype=DTYPES[train.compute])
    params, variables = model.abstract()
    rows = blank(model, batch)

    def objective(params: Any, variables: Any, rows: Any) -> Any:
        return loss(model, params, variables, rows, context)[0]

    def forward(params: Any, variables: Any, rows: Any) -> Any:
        return jax.vjp(lambda trained: objective(trained, variables, rows), params)[1]

    step = jax.make_jaxpr(jax.value_and_grad(objective))(params, variables, rows)
    before = jax.make_jaxpr(forward)(params, variables, rows).jaxpr
    given = {id(var) for var in before.invars}
    kept = {id(var): var.aval for var in before.outvars if id(var) not in given}
    layers = [e.gives[0] for e in graph.events if e.kind == "layer"]
    shapes = [graph.signatures[key].shape for key in layers]  # pyright: ignore
    width = 2 if train.compute == "bfloat16" else 4
    return Traced(
        {node: float(flops) for node, flops in count(step.jaxpr).items()},
        float(sum(_size(aval) for aval in kept.values())),
        float(sum(prod(shape) for shape in shapes) * batch * width),
        float(sum(_size(leaf) for leaf in jax.tree.leaves(params))),
        float(_moved(step.jaxpr)),
    )


def _moved(jaxpr: Any) -> int:
    """Bytes in and out of every product, loops as often as they turn."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            total += sum(_size(var.aval) for var in (*equation.invars, *equation.outvars))
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += turns * sum(_moved(inner) for inner in inner_jaxprs(equation.params))
    return total


def _size(aval: Any) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return prod(shape) * getattr(dtype, "itemsize", 0) if shape else 0


def analytic(graph: Graph, traced: Traced, sizes: Mapping[str, int], *, slices: int = 1) -> Measure:
    """The cost of one step on one device of a mesh.

    Args:
      graph: of one stage.
      traced: what `traced_step` gave.
      sizes: of the mesh axes.
      slices: of the topology.
    """
    mesh = graph.experiment.mesh
    layout = abstract_layout(sizes, **mesh.rules())
    states = Program(graph, layout=layout).states
    over = {axis: sizes.get(axis, 1) for axis in AXES}
    cut, whole = _weights(states, over)
    rows = layout.rows() * over["sequence"]
    own = cut / over["fsdp"] + whole
    state, kept = state_bytes(states), traced.kept / rows * (0.5 + 0.5 / over["tensor"])
    sent = {
        "fsdp": (GATHERS + 1) * cut + 2 * whole,
        **dict.fromkeys(("data", "expert", "sequence"), 2 * own),
        "tensor": 2 * SUMS_OF_LAYER * traced.summed / rows,
    }
    ring: dict[Axes, float] = {
        (axis,): size * (over[axis] - 1) / over[axis]
        for axis, size in sent.items()
        if over[axis] > 1
    }
    between = {(mesh.slices,)} if slices > 1 else set()
    devices = rows * over["tensor"]
    return Measure(
        peak=state + own + kept,
        flops=traced.flops / devices,
        hbm=3 * state + traced.moved / devices,
        ici={axes: size for axes, size in ring.items() if axes not in between},
        dcn={axes: size for axes, size in ring.items() if axes in between},
        flops_of={node: flops / devices for node, flops in traced.flops_of.items()},
        state=state,
        fits=None,
    )


def _weights(states: Any, over: Mapping[str, int]) -> tuple[float, float]:
    """Bytes of the parameters that a device computes with: of those that `fsdp` cuts in storage,
    and of the others."""
    found = {True: 0.0, False: 0.0}
    leaves, places = (jax.tree.leaves(t.params) for t in (states.abstract, states.shardings))
    for leaf, place in zip(leaves, places, strict=True):
        names = _named(place.spec)
        parts = prod(over[name] for name in names if name != "fsdp")
        found["fsdp" in names] += _size(leaf) / parts
    return found[True], found[False]


def _named(spec: Any) -> set[str]:
    """The mesh axes of a sharding."""
    found: set[str] = set()
    for part in spec:
        found.update((part,) if isinstance(part, str) else part or ())
    return found

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
    sizes: Mapping[str, int], params: Any = None, activations: Any = None
) -> Layout:
    """A layout over devices that nobody has named."""
    mesh: Any = AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)
    return Layout(mesh, {**PARAMS, **(params or {})}, {**ACTIVATIONS, **(activations or {})})


@dataclass(frozen=True)
class Traced:
    """What a train step needs whatever the layout.

    Args:
      flops_of: by node, for the whole batch: forward, backward and what is computed again.
      kept: bytes that the forward pass keeps for the backward pass, for the whole batch.
      summed: bytes of what layers give, which `tensor` sums, for the whole batch.
      weights: bytes of parameters.
    """

    flops_of: dict[str, float]
    kept: float
    summed: float
    weights: float

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
    )


def _size(aval: Any) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return prod(shape) * getattr(dtype, "itemsize", 0) if shape else 0


def analytic(graph: Graph, traced: Traced, sizes: Mapping[str, int], *, slices: int = 1,
             crossing: str = "data") -> Measure:  # fmt: skip
    """The cost of one step on one device of a mesh.

    Args:
      graph: of one stage.
      traced: what `traced_step` gave.
      sizes: of the mesh axes.
      slices: of the topology.
      crossing: the mesh axis that crosses from slice to slice.
    """
    mesh = graph.experiment.mesh
    layout = abstract_layout(sizes, mesh.params, mesh.activations)
    states = Program(graph, layout=layout).states
    axes = {axis: sizes.get(axis, 1) for axis in AXES}
    rows, tensor = layout.rows() * axes["sequence"], axes["tensor"]
    weights: dict[tuple[str, ...], float] = {}
    for leaf, place in zip(
        jax.tree.leaves(states.abstract.params), jax.tree.leaves(states.shardings.params),
        strict=True,
    ):  # fmt: skip
        names = _named(place.spec)
        cut = prod(axes[name] for name in names if name != "fsdp")
        key = ("fsdp",) if "fsdp" in names else ()
        weights[key] = weights.get(key, 0.0) + _size(leaf) / cut
    whole = sum(weights.values())
    own = sum(size / (axes["fsdp"] if key else 1) for key, size in weights.items())
    state = state_bytes(states)
    kept = traced.kept / rows * (0.5 + 0.5 / tensor)
    sent: dict[Axes, float] = {}
    gathered = weights.get(("fsdp",), 0.0)
    f, t = axes["fsdp"], tensor
    if f > 1:
        sent["fsdp",] = (GATHERS + 1) * gathered * (f - 1) / f
        sent["fsdp",] += 2 * weights.get((), 0.0) * (f - 1) / f
    for axis in ("data", "expert", "sequence"):
        n = axes[axis]
        if n > 1:
            sent[axis,] = 2 * own * (n - 1) / n
    if t > 1:
        sent["tensor",] = SUMS_OF_LAYER * traced.summed / rows * 2 * (t - 1) / t
    crossed = {key: size for key, size in sent.items() if slices > 1 and crossing in key}
    total = traced.flops
    cut = rows * tensor
    return Measure(
        peak=state + own + kept,
        flops=total / cut,
        hbm=GATHERS * 2 * whole + 3 * state + 4 * kept,
        ici={key: size for key, size in sent.items() if key not in crossed},
        dcn=crossed,
        flops_of={node: flops / cut for node, flops in traced.flops_of.items()},
        state=state,
        fits=None,
    )


def _named(spec: Any) -> set[str]:
    """The mesh axes of a sharding."""
    found: set[str] = set()
    for part in spec:
        found.update((part,) if isinstance(part, str) else part or ())
    return found

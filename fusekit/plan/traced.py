"""A train step, traced: what it needs whatever the layout. Nothing is allocated or compiled."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from fusekit.backends import abstract_layout
from fusekit.context import DTYPES, Context
from fusekit.graph.graph import Graph
from fusekit.objective import loss
from fusekit.plan.turns import rows_of
from fusekit.plan.work import ROWS, WHOLE, Kind, Tag, Work
from fusekit.program import Program
from fusekit.report.flops import count


@dataclass(frozen=True)
class Traced:
    """What a train step needs whatever the layout.

    Args:
      flops_of: by node, for the whole batch: forward, backward and what is computed again.
      kept_of: bytes that the forward pass keeps for the backward pass, for the whole batch.
      weights: bytes of parameters.
      width: bytes of a number that is computed with.
      work: by mesh axis that cuts layers, `tensor` and `expert`.
    """

    flops_of: dict[str, float]
    kept_of: Mapping[Kind, float]
    weights: float
    width: int
    work: Mapping[str, Work]

    @property
    def flops(self) -> float:
        return sum(self.flops_of.values())

    @property
    def kept(self) -> float:
        return sum(self.kept_of.values())


def flops_of(graph: Graph, batch: int, task: str | None = None) -> dict[str, float]:
    """FLOPs of a step by node, for the whole batch."""
    objective, given = _objective(graph, batch, task)
    step = jax.make_jaxpr(jax.value_and_grad(objective))(*given)
    return {node: float(flops) for node, flops in count(step.jaxpr).items()}


def traced_step(graph: Graph, batch: int, task: str | None = None) -> Traced:
    """Traces the loss and its gradient; where tasks alternate, those of one."""
    train = graph.experiment.train
    objective, given = _objective(graph, ROWS, task)

    def forward(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda trained: objective(trained, *rest), params)[1]

    step = jax.make_jaxpr(jax.value_and_grad(objective))(*given).jaxpr
    before = jax.make_jaxpr(forward)(*given).jaxpr
    work = {axis: Work(batch) for axis in ("tensor", "expert")}
    for axis, one in work.items():
        one.walk(step, _tags(graph, axis, len(step.invars)))
    return Traced(
        dict(work["tensor"].flops_of),
        _kept(before, _tags(graph, "tensor", len(before.invars)), batch),
        float(sum(size_of(leaf) for leaf in jax.tree.leaves(given[0]))),
        2 if train.compute == "bfloat16" else 4,
        work,
    )


def _objective(graph: Graph, rows: int, task: str | None) -> tuple[Any, tuple[Any, ...]]:
    """The loss of parameters, variables and a batch, and the shapes of these."""
    program = Program(graph, layers="scan", layout=abstract_layout({}))
    model = program.model
    context = Context(
        mode="train", key=jax.random.key(0), dtype=DTYPES[graph.experiment.train.compute]
    )

    def objective(params: Any, variables: Any, rows: Any) -> Any:
        total = jnp.zeros(())
        for names, factor, own in program.turns(rows, task):
            value, (variables, _) = loss(model, params, variables, own, context, names)
            total = total + factor * value
        return total

    return objective, (*model.abstract(), rows_of(model, rows, task))


def _tags(graph: Graph, axis: str, count: int) -> list[Tag]:
    """Which axes of the parameters a mesh axis cuts; of all else none."""
    layout = abstract_layout({axis: 2}, **graph.experiment.mesh.rules())
    places = jax.tree.leaves(Program(graph, layers="scan", layout=layout).states.shardings.params)
    tags = [
        Tag(frozenset(n for n, part in enumerate(p.spec) if axis in named((part,)))) for p in places
    ]
    return [*tags, *[WHOLE] * (count - len(tags))]


def _kept(before: Any, tags: list[Tag], batch: int) -> dict[Kind, float]:
    """Bytes that the forward pass gives to the backward pass and that are no input of it."""
    work, found = Work(batch), defaultdict[Kind, float](float)
    given, seen = {id(var) for var in before.invars}, set[int]()
    for var, tag in zip(before.outvars, work.walk(before, tags), strict=True):
        if id(var) not in given | seen:
            seen.add(id(var))
            found[work.kind(var.aval, tag)] += work.bytes(var.aval)
    return found


def named(spec: Any) -> set[str]:
    """The mesh axes of a sharding."""
    found: set[str] = set()
    for part in spec:
        found.update((part,) if isinstance(part, str) else part or ())
    return found


def size_of(aval: Any) -> int:
    """Bytes of an array."""
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return prod(shape) * getattr(dtype, "itemsize", 0)

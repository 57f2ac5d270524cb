"""What is optimised: the losses of a graph on the values of one walk."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.batch import blank
from fusekit.component import LossSpec
from fusekit.context import DTYPES, Context
from fusekit.deferred import deferrable
from fusekit.graph.node import Key, Objective, Read
from fusekit.graph.select import select_stream
from fusekit.graph.unit import UnitId
from fusekit.layered import LayerOutput
from fusekit.model import FusionModel
from fusekit.scope import node_scope
from fusekit.stream import Stream
from fusekit.walk.values import State, Values

Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""By loss: the sum of its rows and the sum of their weights."""


def read(values: Values, wanted: Read) -> Stream:
    """A value with its ports applied."""
    value = values[wanted.key]
    return select_stream(value.stream if isinstance(value, LayerOutput) else value, wanted.ports)


def readings(objective: Objective, values: Values) -> Iterator[dict[str, Stream]]:
    """The streams of an objective by role: once, or once a point where it names several."""
    points = max((len(w.reads) for w in objective.wires.values() if w.many), default=1)
    for point in range(points):
        yield {
            role: read(values, wire.reads[min(point, len(wire.reads) - 1)])
            for role, wire in objective.wires.items()
        }


def read_by(
    objectives: Mapping[str, Objective], names: Collection[str] | None = None
) -> tuple[Key, ...]:
    """The values that objectives read, all or those of these names."""
    chosen = [o for name, o in objectives.items() if names is None or name in names]
    return tuple(r.key for o in chosen for wire in o.wires.values() for r in wire.reads)


def rows_of(streams: Mapping[str, Stream], valid: Bool[Array, "b"]) -> Bool[Array, "b"]:
    """The rows in which everything that is read is present."""
    presences = [s.presence for s in streams.values() if s.presence is not None]
    return reduce(jnp.logical_and, presences, valid)


def ratio(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """total / weight; zero, with zero gradient, where no row counts."""
    counts = weight > 0
    return jnp.where(counts, total, 0.0) / jnp.where(counts, weight, 1.0)


def sums(
    model: FusionModel,
    values: Values,
    params: State,
    variables: State,
    valid: Bool[Array, "b"],
    context: Context,
    names: Collection[str] | None = None,
) -> tuple[Sums, State]:
    """Losses over the batch, by default all; several points of one loss count as so many rows."""
    found: Sums = {}
    for name, objective in model.graph.losses.items():
        if names is not None and name not in names:
            continue
        total = weight = jnp.zeros((), jnp.float32)
        unit = UnitId(f"losses.{name}")
        own = model.asked(context, unit.path)
        for streams in readings(objective, values):
            module = model.loss_module(name, params, variables, context)
            rows = rows_of(streams, valid)
            with node_scope(unit.path):
                value = module(streams, rows=rows, context=own.at(unit.path))
            total = total + jnp.sum(value.total.astype(_wide(value.total)))
            weight = weight + jnp.sum(value.weight.astype(_wide(value.weight)))
            variables = model.after(unit, module, variables)
        found[name] = (total, weight)
    return found, variables


def walked(
    model: FusionModel,
    params: State,
    variables: State,
    batch: Mapping[str, Stream],
    context: Context,
    names: Collection[str] | None = None,
) -> tuple[Sums, State]:
    """The sums of the named losses on a batch, by default of all, and the variables afterwards.
    Only what these losses read is run, without the values that they need not see."""
    wanted = read_by(model.graph.losses, names)
    context = replace(context, deferred=deferrable(model, wanted, names))
    values, variables = model.apply(params, variables, batch, context=context, wanted=wanted)
    valid = jnp.asarray(batch["valid"].values)
    return sums(model, values, params, variables, valid, context, names)


def loss(
    model: FusionModel,
    params: State,
    variables: State,
    batch: Mapping[str, Stream],
    context: Context,
    names: Collection[str] | None = None,
) -> tuple[Float[Array, ""], tuple[State, dict[str, Float[Array, ""]]]]:
    """The objective on a batch: the sum of the named losses, by default of all; with the variables
    afterwards and each loss by name. Only what these losses read is run."""
    found, variables = walked(model, params, variables, batch, context, names)
    each = {name: ratio(*pair) for name, pair in found.items()}
    return total_loss(model, found), (variables, each)


def traced(model: FusionModel, compute: str) -> jex.core.ClosedJaxpr:
    """The objective in training, of parameters, variables and a batch of two rows."""
    context = Context(mode="train", key=jax.random.key(0), dtype=DTYPES[compute])

    def objective(params: State, variables: State, batch: dict[str, Stream]) -> Array:
        return loss(model, params, variables, batch, context)[0]

    return jax.make_jaxpr(objective)(*model.abstract(), blank(model, 2))


def _wide(array: Array) -> Any:
    return jnp.promote_types(array.dtype, jnp.float32)


def total_loss(model: FusionModel, found: Sums) -> Float[Array, ""]:
    """The weighted sum of the losses."""
    parts = [
        objective.spec.weight * ratio(*found[name])
        for name, objective in model.graph.losses.items()
        if isinstance(objective.spec, LossSpec) and name in found
    ]
    return reduce(jnp.add, parts, jnp.zeros(()))

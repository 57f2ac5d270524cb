"""Programs: a graph compiled for a layout. `init`, `step`, `evaluate`, `predict`.

    program = fusekit.compile(experiment)
    state = program.init(seed=0)
    state, metrics = program.step(state, batch)

A program compiles once per batch shape, whatever the presence pattern. The state that goes into
`step` is donated: use the one that comes out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from fusekit.component import OperatorSpec
from fusekit.context import Collector, Context, Mode
from fusekit.errors import DataError, nearest
from fusekit.graph.graph import Graph
from fusekit.graph.link import answering
from fusekit.graph.node import Key
from fusekit.graph.packing import names_of, pack, step_name, unpack, unstacked
from fusekit.graph.units import Group
from fusekit.layout import Layout
from fusekit.model import FusionModel, State
from fusekit.objective import ratio, read, readings, rows_of, sums, total_loss
from fusekit.patterns import check_patterns
from fusekit.stream import Signature, Stream
from fusekit.train.optimizer import FROZEN, decays, labeller, transformation
from fusekit.train.state import TrainState

Batch = Mapping[str, Any]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
SCAN_FROM = 16
"""`layers: auto` scans runs of at least so many repeats."""


@dataclass(frozen=True)
class Replicas:
    """States of several seeds that run one after another (`replicas: loop`)."""

    states: tuple[TrainState, ...]


class Program:
    """A compiled experiment.

    Args:
      graph: the resolved experiment.
      layout: where it runs; default: one device.
      steps: how many steps the learning-rate schedule spans.
      replicas: how many seeds run side by side in one state.
      mode: how replicas run: `vmap` (one program), `loop` (one compiled step, one after another),
        or `auto`: loop on CPU, vmap elsewhere.
      layers: `scan`, `unroll` or `auto`, in place of the experiment's own choice.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        layout: Layout | None = None,
        steps: int = 1000,
        replicas: int = 1,
        mode: Literal["auto", "vmap", "loop"] | None = None,
        layers: Literal["auto", "scan", "unroll"] | None = None,
    ):
        experiment = graph.experiment
        self.graph = graph
        self.steps = steps
        self.replicas = replicas
        self.layout = layout or Layout.of(devices=jax.devices()[:1])
        self.train = experiment.train
        self.dtype = DTYPES[self.train.compute]
        choice = layers or experiment.mesh.layers
        self.label = labeller(self.train)
        self.model = FusionModel(
            graph,
            scan={"unroll": 0, "auto": SCAN_FROM, "scan": 2}[choice],
            apart=self.label,
        )
        check_patterns(graph)
        mode = mode or experiment.mesh.replicas
        on_cpu = self.layout.mesh.devices.flat[0].platform == "cpu"
        self.vmapped = replicas > 1 and (mode == "vmap" or (mode == "auto" and not on_cpu))

    # -- state ---------------------------------------------------------------------------------

    @cached_property
    def abstract(self) -> TrainState:
        """Shapes of one replica's state."""
        return jax.eval_shape(self._init, jax.random.key(0))

    @cached_property
    def shardings(self) -> TrainState:
        """Where each leaf of one replica's state lives, optimiser moments included."""
        params = self._places(self.abstract.params)
        variables = self._places(self.abstract.variables)
        by_suffix: dict[tuple[str, ...], tuple[tuple[int, ...], Any]] = {}
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(self.abstract.params),
            jax.tree.leaves(params),
            strict=True,
        ):
            by_suffix[tuple(step_name(s) for s in path)] = leaf.shape, sharding
            group, axes = self._axes(path)
            shape = leaf.shape[1:] if group.stacked else leaf.shape
            for name, _ in names_of(path, self.model.groups):
                by_suffix[name,] = shape, self.layout.of_param(shape, axes)

        def moment(path: Any, leaf: Any) -> Any:
            steps = tuple(step_name(s) for s in path)
            for start in range(len(steps)):
                found = by_suffix.get(steps[start:])
                if found is not None and found[0] == leaf.shape:
                    return found[1]
            return self.layout.replicated()

        whole: Any = self.layout.replicated()
        return TrainState(
            step=whole,
            params=params,
            variables=variables,
            optimizer=jax.tree_util.tree_map_with_path(moment, self.abstract.optimizer),
            key=whole,
        )

    def _places(self, tree: State) -> Any:
        def place(path: Any, leaf: Any) -> Any:
            group, axes = self._axes(path)
            return self.layout.of_param(leaf.shape, ("layers", *axes) if group.stacked else axes)

        return jax.tree_util.tree_map_with_path(place, tree)

    def _axes(self, path: Any) -> tuple[Group, tuple[str | None, ...]]:
        """The group of a packed leaf, and the logical axes of one unit's array."""
        group = self.model.groups[step_name(path[0])]
        keys = tuple(getattr(s, "key", getattr(s, "idx", None)) for s in path[1:])
        return group, group.template.axes[keys]

    @cached_property
    def _side_by_side(self) -> TrainState:
        """Where replicas that run side by side live: each as it would alone."""

        def one(sharding: Any) -> Any:
            return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))

        return jax.tree.map(one, self.shardings)

    @cached_property
    def labels(self) -> Any:
        """The optimiser group of each parameter leaf; `/vector` marks what is not decayed."""

        def one(path: Any, leaf: Any) -> str:
            name, index = names_of(path, self.model.groups)[0]
            label = FROZEN if path in self.unread else self.label(name)
            ndim = leaf.ndim - (index is not None)
            return label if decays(name, ndim) or label == FROZEN else f"{label}/vector"

        return jax.tree_util.tree_map_with_path(one, self.model.abstract()[0])

    @cached_property
    def unread(self) -> frozenset[Any]:
        """Parameter leaves on which no loss depends: those of nodes that no loss needs, and what
        operators have replaced or skipped.

        They are frozen. Only where an operator may replace or skip is the step traced for it.
        """
        params, variables = self.model.abstract()
        operators = [n.spec for n in self.graph.nodes.values() if isinstance(n.spec, OperatorSpec)]
        if not any(spec.needs & {"replace", "skip"} for spec in operators):
            reads = [w.reads for o in self.graph.losses.values() for w in o.wires.values()]
            used = self.model.units_of(read.key for each in reads for read in each)
            return frozenset(
                path
                for path, _ in jax.tree_util.tree_leaves_with_path(params)
                if used.isdisjoint(self.model.groups[step_name(path[0])].units)
            )
        context = self.context("train", jax.random.key(0))
        context = replace(context, layout=None)

        def objective(params: State, variables: State, batch: dict[str, Stream]) -> Array:
            return self.loss(params, variables, batch, context)[0]

        flat = jax.tree_util.tree_leaves_with_path(params)
        closed = jax.make_jaxpr(objective)(params, variables, self.blank(2))
        used = dce_jaxpr(closed.jaxpr, [True])[1][: len(flat)]
        return frozenset(path for (path, _), use in zip(flat, used, strict=True) if not use)

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        labels = self._trainable(self.labels)
        if self.train.optimizer.elementwise:
            return transformation(self.train, self.steps, labels)
        flat, axes = {}, {}
        for path, label in jax.tree_util.tree_leaves_with_path(labels):
            group = self.model.groups[step_name(path[0])]
            keys = tuple(getattr(s, "key", getattr(s, "idx", None)) for s in path[1:])
            for name, _ in names_of(path, self.model.groups):
                flat[name], axes[name] = label, group.template.axes[keys]
        return unstacked(transformation(self.train, self.steps, flat, axes), self.model.groups)

    def _trainable(self, tree: Any) -> Any:
        """The same tree with `None` in place of frozen leaves."""
        return jax.tree.map(
            lambda label, leaf: None if label == FROZEN else leaf, self.labels, tree
        )

    def _init(self, key: Array) -> TrainState:
        init_key, run_key = jax.random.split(key)
        params, variables = self.model.init(init_key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            variables=variables,
            optimizer=self.optimizer.init(self._trainable(params)),
            key=run_key,
        )

    def init(self, seed: int | None = None) -> Any:
        """A fresh state, sharded; with replicas, seeds `seed, seed + 1, ...`."""
        first = self.train.seed if seed is None else seed
        states = [self._fresh(jax.random.key(first + i)) for i in range(self.replicas)]
        if self.replicas == 1:
            return states[0]
        if not self.vmapped:
            return Replicas(tuple(states))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return jax.device_put(stacked, self._side_by_side)

    def _fresh(self, key: Array) -> TrainState:
        """One replica's first state, compiled once per kind of layer and not per layer."""
        init_key, run_key = jax.random.split(key)
        params, variables = {}, {}
        place = self.shardings
        for name, group in self.model.groups.items():
            init = self._compiled_unit_init(name, group)
            params[name], variables[name] = init(group.keys(init_key))
        optimizer = jax.jit(self.optimizer.init, out_shardings=place.optimizer)
        return TrainState(
            step=jax.device_put(jnp.zeros((), jnp.int32), place.step),
            params=params,
            variables=variables,
            optimizer=optimizer(self._trainable(params)),
            key=jax.device_put(run_key, place.key),
        )

    @cached_property
    def _unit_inits(self) -> dict[tuple[int, bool], Any]:
        return {}

    def _compiled_unit_init(self, name: str, group: Group) -> Any:
        """The jitted init of a group's template, which makes every part where it is to live."""
        found, template = self._unit_inits, group.template
        if (id(template), group.stacked) not in found:
            init = jax.vmap(template.init) if group.stacked else template.init
            places = self.shardings.params[name], self.shardings.variables[name]
            found[id(template), group.stacked] = jax.jit(init, out_shardings=places)
        return found[id(template), group.stacked]

    def replica(self, state: Any, index: int) -> TrainState:
        """One replica's state, as if it had been trained alone."""
        if isinstance(state, Replicas):
            return state.states[index]
        return jax.tree.map(lambda leaf: leaf[index], state) if self.vmapped else state

    def parameters(self, state: TrainState) -> dict[str, Array]:
        """Parameters by canonical path."""
        return unpack(state.params, self.model.groups)

    def flat(self, state: TrainState) -> dict[str, Any]:
        """The whole state by canonical path; the random key as its integer data."""
        return unpack(state.with_(key=jax.random.key_data(state.key)), self.model.groups)

    def restored(self, flat: Mapping[str, Any]) -> TrainState:
        """The state whose `flat` form this is. Raises `KeyError` for what is missing."""
        like = self.abstract.with_(key=jax.random.key_data(jax.random.key(0)))
        packed = pack(flat, like, self.model.groups)
        state = packed.with_(key=jax.random.wrap_key_data(packed.key))
        return jax.device_put(state, self.shardings)

    # -- running -------------------------------------------------------------------------------

    def batch(self, batch: Batch, *, wanted: list[Key] | None = None) -> dict[str, Stream]:
        """A batch in the one form that is compiled for: arrays become streams, and masks and
        presences stand exactly where they are declared.

        Raises `DataError` for entries that are missing or of the wrong shape.
        """
        found: dict[str, Stream] = {}
        problems: list[str] = []
        rows = _rows(batch)
        for name in self.model.entries(wanted):
            signature = self.graph.signatures[Key("out", f"batch.{name}")]
            assert isinstance(signature, Signature)
            if name not in batch:
                close = nearest(name, batch) or tuple(batch)
                problems.append(f"the batch has no {name} ({', '.join(close)})")
                continue
            given = batch[name]
            stream = given if isinstance(given, Stream) else Stream(given)
            misfits = _misfits(name, stream, signature, rows)
            if misfits:
                problems += misfits
                continue
            mask: Any = None
            presence: Any = None
            if signature.padded:
                mask = _bools(stream.mask, np.shape(stream.values)[:2])
            if signature.optional:
                presence = _bools(stream.presence, (rows,))
            found[name] = Stream(stream.values, mask, presence)
        if problems:
            raise DataError("; ".join(problems))
        valid: Any = batch.get("valid")
        if valid is None:
            valid = np.ones(rows, bool)
        found["valid"] = valid if isinstance(valid, Stream) else Stream(valid)
        if self.layout.size > 1:
            return jax.device_put(found, jax.tree.map(self.layout.batch, found))
        return found

    def blank(self, size: int) -> dict[str, Stream]:
        """The shapes of a batch of so many rows."""
        found: dict[str, Stream] = {}
        dtypes = {"float": jnp.float32, "int": jnp.int32, "bool": jnp.bool_}
        for name in self.model.entries():
            signature = self.graph.signatures[Key("out", f"batch.{name}")]
            assert isinstance(signature, Signature)
            shape: Any = jax.ShapeDtypeStruct((size, *signature.shape), dtypes[signature.dtype])
            mask: Any = jax.ShapeDtypeStruct(shape.shape[:2], jnp.bool_)
            presence: Any = jax.ShapeDtypeStruct((size,), jnp.bool_)
            found[name] = Stream(
                shape, mask if signature.padded else None, presence if signature.optional else None
            )
        valid: Any = jax.ShapeDtypeStruct((size,), jnp.bool_)
        return {**found, "valid": Stream(valid)}

    def context(self, mode: Mode, key: Array | None, collector: Collector | None = None) -> Context:
        layout = self.layout if self.layout.size > 1 else None
        return Context(
            mode=mode,
            key=key,
            dtype=self.dtype,
            collector=collector or Collector(),
            layout=layout,
        )

    def loss(
        self, params: State, variables: State, batch: Mapping[str, Stream], context: Context
    ) -> tuple[Array, tuple[State, dict[str, Array]]]:
        """The objective on a batch; with the variables afterwards and each loss by name."""
        values, variables = self.model.apply(params, variables, batch, context=context)
        valid = jnp.asarray(batch["valid"].values)
        found, variables = sums(self.model, values, params, variables, valid, context)
        each = {name: ratio(*pair) for name, pair in found.items()}
        return total_loss(self.model, found), (variables, each)

    def _step(
        self, state: TrainState, batch: Mapping[str, Stream]
    ) -> tuple[TrainState, dict[str, Array]]:
        context = self.context("train", jax.random.fold_in(state.key, state.step))
        trained = self._trainable(state.params)

        def objective(trained: Any) -> tuple[Array, tuple[State, dict[str, Array]]]:
            params = jax.tree.map(
                lambda label, old, new: old if label == FROZEN else new,
                self.labels,
                state.params,
                trained,
                is_leaf=lambda leaf: leaf is None,
            )
            return self.loss(params, state.variables, batch, context)

        (loss, (variables, each)), grads = jax.value_and_grad(objective, has_aux=True)(trained)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, trained)
        trained = optax.apply_updates(trained, updates)
        params = jax.tree.map(
            lambda label, old, new: old if label == FROZEN else new,
            self.labels,
            state.params,
            trained,
            is_leaf=lambda leaf: leaf is None,
        )
        metrics = {
            "loss": loss,
            **{f"losses.{name}": value for name, value in each.items()},
            "gradient_norm": optax.tree.norm(grads),
        }
        return (
            state.with_(
                step=state.step + 1, params=params, variables=variables, optimizer=optimizer
            ),
            metrics,
        )

    @cached_property
    def compiled_step(self) -> Any:
        """The jitted step: `(state, batch) -> (state, metrics)`, the state donated."""
        if self.vmapped:
            return jax.jit(
                jax.vmap(self._step, in_axes=(0, None)),
                in_shardings=(self._side_by_side, None),
                out_shardings=(self._side_by_side, self.layout.replicated()),
                donate_argnums=0,
            )
        return jax.jit(
            self._step,
            in_shardings=(self.shardings, None),
            out_shardings=(self.shardings, self.layout.replicated()),
            donate_argnums=0,
        )

    def step(self, state: Any, batch: Batch) -> tuple[Any, dict[str, Array]]:
        """One step of training. The given state is donated; metrics have a replica axis if there
        are replicas."""
        prepared = self.batch(batch)
        if not isinstance(state, Replicas):
            return self.compiled_step(state, prepared)
        done = [self.compiled_step(one, prepared) for one in state.states]
        metrics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[m for _, m in done])
        return Replicas(tuple(s for s, _ in done)), metrics

    @cached_property
    def _evaluated(self) -> tuple[Key, ...]:
        objectives = (*self.graph.losses.values(), *self.graph.metrics.values())
        return tuple(r.key for o in objectives for w in o.wires.values() for r in w.reads)

    def _evaluate(self, state: TrainState, batch: Mapping[str, Stream]) -> dict[str, Any]:
        context = self.context("evaluate", None)
        values, variables = self.model.apply(
            state.params, state.variables, batch, context=context, wanted=self._evaluated
        )
        valid = jnp.asarray(batch["valid"].values)
        found, _ = sums(self.model, values, state.params, variables, valid, context)
        columns: dict[str, Any] = {}
        for name, objective in self.graph.metrics.items():
            (streams,) = readings(objective, values)
            columns[name] = {
                "columns": {role: s.values for role, s in streams.items()},
                "masks": {role: s.mask for role, s in streams.items() if s.mask is not None},
                "rows": rows_of(streams, valid),
            }
        return {"losses": found, "metrics": columns}

    @cached_property
    def _compiled_evaluate(self) -> Any:
        function = self._evaluate
        return jax.jit(jax.vmap(function, in_axes=(0, None)) if self.vmapped else function)

    def evaluate(self, state: Any, batch: Batch) -> dict[str, Any]:
        """Sums of the losses and what the metrics read, of one batch; see `train.evaluate`."""
        prepared = self.batch(batch, wanted=list(self._evaluated))
        if isinstance(state, Replicas):
            done = [self._compiled_evaluate(one, prepared) for one in state.states]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *done)
        return self._compiled_evaluate(state, prepared)

    @cached_property
    def _predicted(self) -> tuple[Key, ...]:
        reads = [r for name in answering(self.graph) for r in self.graph.outputs_of(name)]
        return tuple(r.key for r in reads)

    def _predict(self, state: TrainState, batch: Mapping[str, Stream]) -> dict[str, Any]:
        context = self.context("predict", None)
        values, _ = self.model.apply(
            state.params, state.variables, batch, context=context, wanted=self._predicted
        )
        found: dict[str, Any] = {}
        for name in answering(self.graph):
            reads = self.graph.outputs_of(name)
            streams = [read(values, r) for r in reads]
            for k, stream in enumerate(streams):
                found[name if len(streams) == 1 else f"{name}@{k}"] = stream
        return found

    @cached_property
    def _compiled_predict(self) -> Any:
        return jax.jit(self._predict)

    def predict(self, state: TrainState, batch: Batch) -> dict[str, Stream]:
        """What every head answers, and what fusions make of their answers; needs no labels. Rows
        that lack all inputs of a head have `presence` false in its stream."""
        return self._compiled_predict(state, self.batch(batch, wanted=list(self._predicted)))


def _rows(batch: Batch) -> int:
    """How many rows a batch has: as many as most of its entries."""
    shapes = [np.shape(getattr(given, "values", given)) for given in batch.values()]
    sizes = [shape[0] for shape in shapes if shape]
    return max(set(sizes), key=sizes.count) if sizes else 0


def _bools(given: Any, shape: tuple[int, ...]) -> Any:
    """A mask as it is compiled for."""
    return np.ones(shape, bool) if given is None else given.astype(bool)


def _misfits(name: str, stream: Stream, signature: Signature, rows: int) -> list[str]:
    """What is wrong with an entry of a batch."""
    shape = tuple(np.shape(stream.values))
    if shape[1:] != signature.shape or not shape:
        sizes = ", ".join(["batch", *map(str, signature.shape)])
        return [f"{name} has shape {shape}; expected ({sizes})"]
    found = []
    if shape[0] != rows:
        found.append(f"{name} has {shape[0]} rows; the batch has {rows}")
    for what, given, expected, declared, how in (
        ("mask", stream.mask, shape[:2], signature.padded, "is never padded"),
        ("presence", stream.presence, shape[:1], signature.optional, "is not optional"),
    ):
        if given is None:
            continue
        if tuple(np.shape(given)) != expected:
            found.append(f"the {what} of {name} has shape {np.shape(given)}; expected {expected}")
        elif not declared and not np.all(np.asarray(given)):
            found.append(f"the {what} of {name} is not all true, but {name} {how}")
    return found

"""Programs: a graph compiled for a layout. `init`, `step`, `evaluate`, `predict`.

    program = fusekit.compile(experiment)
    state = program.init(seed=0)
    state, metrics = program.step(state, batch)

A program compiles once per batch shape, whatever the presence pattern. The state that goes into
`step` is donated: use the one that comes out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from fusekit.batch import Batch, prepared
from fusekit.chosen import Choices
from fusekit.component import LossSpec
from fusekit.config.mesh import Layers
from fusekit.context import DTYPES, Collector, Context, Mode
from fusekit.coupling import coupled
from fusekit.errors import ConfigError, DataError
from fusekit.graph.graph import Graph
from fusekit.graph.link import answering
from fusekit.graph.node import Key, root
from fusekit.graph.packing import pack, unpack
from fusekit.hosts.rows import placed
from fusekit.layout import Layout
from fusekit.microbatches import accumulated, parted, whole
from fusekit.model import FusionModel
from fusekit.objective import Sums, loss, read, read_by, readings, rows_of, sums, walked
from fusekit.patterns import check_patterns
from fusekit.side_by_side import pays
from fusekit.states import States
from fusekit.stream import Stream
from fusekit.train.optimizer import labeller
from fusekit.train.state import TrainState
from fusekit.walk.values import State

SCAN_FROM = 16
"""`layers: auto` scans runs of at least so many repeats."""
LEAST: dict[str, int] = {"unroll": 0, "auto": SCAN_FROM, "scan": 2}


def least_of(graph: Graph, layers: Layers | None) -> int | Callable[[str], int]:
    """The least number of repeats that are scanned, by node where components say so themselves."""
    mesh = graph.experiment.mesh
    own = {name: one.layers for name, one in mesh.components.items() if one.layers is not None}
    if layers is not None or not own:
        return LEAST[layers or mesh.layers]
    return lambda name: LEAST[own.get(root(graph.nodes, graph.nodes[name]).name, mesh.layers)]


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
        or `auto`: what is expected to be faster.
      layers: `scan`, `unroll` or `auto`, in place of all that the experiment's mesh says.
      after: what is done to the optimiser's updates last.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        layout: Layout | None = None,
        steps: int = 1000,
        replicas: int = 1,
        mode: Literal["auto", "vmap", "loop"] | None = None,
        layers: Layers | None = None,
        after: optax.GradientTransformation | None = None,
    ):
        experiment = graph.experiment
        self.graph = graph
        self.steps = steps
        self.replicas = replicas
        self.layout = layout or Layout.of(devices=jax.devices()[:1])
        self.train = experiment.train
        self.dtype = DTYPES[self.train.compute]
        self.microbatches = experiment.mesh.microbatches
        self.choices: Choices = {}
        """Which backends the train step has chosen, once it has been traced."""
        self.model = FusionModel(
            graph,
            scan=least_of(graph, layers),
            apart=labeller(self.train),
        )
        check_patterns(graph)
        if self.microbatches > 1 and (problems := coupled(self.model)):
            raise ConfigError(problems)
        self.states = States(self.model, self.layout, self.train, steps, after)
        self.vmapped = replicas > 1 and self._side_by_side(mode or experiment.mesh.replicas)

    def _side_by_side(self, mode: Literal["auto", "vmap", "loop"]) -> bool:
        """Whether replicas run in one program."""
        if mode != "auto":
            return mode == "vmap"
        platform = self.layout.mesh.devices.flat[0].platform
        given = {"steps": self.steps, "replicas": self.replicas}
        return pays(self.model, self.train.compute, platform, **given)

    # -- state ---------------------------------------------------------------------------------

    def init(self, seed: int | None = None) -> Any:
        """A fresh state, sharded; with replicas, seeds `seed, seed + 1, ...`."""
        first = self.train.seed if seed is None else seed
        states = [self.states.fresh(jax.random.key(first + i)) for i in range(self.replicas)]
        if self.replicas == 1:
            return states[0]
        if not self.vmapped:
            return Replicas(tuple(states))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return jax.device_put(stacked, self.states.side_by_side)

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
        like = self.states.abstract.with_(key=jax.random.key_data(jax.random.key(0)))
        packed = pack(flat, like, self.model.groups)
        state = packed.with_(key=jax.random.wrap_key_data(packed.key))
        return placed(state, self.states.shardings)

    # -- running -------------------------------------------------------------------------------

    def context(self, mode: Mode, key: Array | None, collector: Collector | None = None) -> Context:
        layout = self.layout if self.layout.size > 1 else None
        if collector is None:
            collector = Collector((), self.choices if mode == "train" else None)
        return Context(
            mode=mode,
            key=key,
            dtype=self.dtype,
            collector=collector,
            layout=layout,
            device=self.layout.mesh.devices.flat[0],
        )

    def _given(self, batch: Batch, losses: tuple[str, ...] | None = None) -> dict[str, Stream]:
        """What the losses of a step need of a batch."""
        return self.batch(batch, wanted=read_by(self.graph.losses, losses))

    def batch(self, batch: Batch, *, wanted: Iterable[Key] | None = None) -> dict[str, Stream]:
        """A batch in the one form that is compiled for; see `fusekit.batch.prepared`."""
        return prepared(self.model, self.layout, batch, wanted)

    def loss(
        self, params: State, variables: State, batch: Mapping[str, Stream], context: Context
    ) -> tuple[Array, tuple[State, dict[str, Array]]]:
        """The objective on a batch; with the variables afterwards and each loss by name."""
        return loss(self.model, params, variables, batch, context)

    def _step(
        self, state: TrainState, batch: Mapping[str, Any], task: str | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        trained = self.states.trainable(state.params)

        def part(trained: Any, rows: Mapping[str, Any], key: Array) -> tuple[Sums, State]:
            params = self.states.whole(trained, state.params)
            context, variables, found = self.context("train", key), state.variables, {}
            for number, (names, _, own) in enumerate(self.turns(rows, task)):
                sums, variables = walked(self.model, params, variables, own, context, names)
                found |= {(number, name): pair for name, pair in sums.items()}
            return found, variables

        factors = self._factors(batch, task)
        if self.microbatches > 1:
            rows = parted(batch, self.microbatches, self.layout)
            places = self.states.trainable(self.states.shardings.params)
            found = accumulated(part, trained, rows, key, factors, places)
        else:
            found = whole(part, trained, batch, key, factors)
        total, each, variables, grads = found
        updates, optimizer = self.states.optimizer.update(grads, state.optimizer, trained)
        trained = optax.apply_updates(trained, updates)
        params = self.model.averaged(self.states.whole(trained, state.params))
        variables = self.model.averaged(self.states.updated(variables, state.variables))
        metrics = {
            "loss": total,
            **{f"losses.{name}": value for (_, name), value in each.items()},
            "gradient_norm": optax.tree.norm(grads),
        }
        return (
            state.with_(
                step=state.step + 1, params=params, variables=variables, optimizer=optimizer
            ),
            metrics,
        )

    def turns(
        self, batch: Mapping[str, Any], task: str | None
    ) -> list[tuple[tuple[str, ...] | None, float, Mapping[str, Stream]]]:
        """What a step optimises: names of losses, a factor, and the batch of each."""
        tasks = self.train.tasks
        if task is not None:
            return [(tasks[task].losses, 1.0, batch)]
        if not tasks:
            return [(None, 1.0, batch)]
        return [(each.losses, each.weight, batch[name]) for name, each in tasks.items()]

    def _factors(self, batch: Mapping[str, Any], task: str | None) -> dict[tuple[int, str], float]:
        """The factor of each loss in the objective, by turn and name."""
        return {
            (number, name): factor * objective.spec.weight
            for number, (names, factor, _) in enumerate(self.turns(batch, task))
            for name, objective in self.graph.losses.items()
            if isinstance(objective.spec, LossSpec) and (names is None or name in names)
        }

    @cached_property
    def compiled_step(self) -> Any:
        """The jitted step: `(state, batch) -> (state, metrics)`, the state donated. With tasks
        that are summed, a batch is a mapping of theirs."""
        return self._compiled()

    @cached_property
    def _task_steps(self) -> dict[str, Any]:
        return {}

    def step_of(self, task: str) -> Any:
        """The jitted step of one task, where tasks alternate."""
        if task not in self._task_steps:
            self._task_steps[task] = self._compiled(task)
        return self._task_steps[task]

    def _compiled(self, task: str | None = None) -> Any:
        step = partial(self._step, task=task)
        place = self.states.shardings
        if self.vmapped:
            step = jax.vmap(step, in_axes=(0, None))
            place = self.states.side_by_side
        return jax.jit(
            step,
            in_shardings=(place, None),
            out_shardings=(place, self.layout.replicated()),
            donate_argnums=0,
        )

    def step(
        self, state: Any, batch: Any, *, task: str | None = None
    ) -> tuple[Any, dict[str, Array]]:
        """One step of training. The given state is donated; metrics have a replica axis if there
        are replicas.

        Args:
          state: as `init` gives it.
          batch: entries by name; of tasks that are summed, batches by task.
          task: whose turn it is, where the stage has tasks that alternate.
        """
        if self.train.tasks and (task is None) == (self.train.turns == "alternate"):
            due = "a task" if task is None else "the batches of all tasks, and no task"
            raise DataError(f"with turns: {self.train.turns} a step takes {due}")
        if task is None and self.train.tasks:
            given: Any = {n: self._given(batch[n], t.losses) for n, t in self.train.tasks.items()}
            step = self.compiled_step
        elif task is None:
            given, step = self._given(batch), self.compiled_step
        else:
            given = self._given(batch, self.train.tasks[task].losses)
            step = self.step_of(task)
        if not isinstance(state, Replicas):
            return step(state, given)
        done = [step(one, given) for one in state.states]
        metrics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[m for _, m in done])
        return Replicas(tuple(s for s, _ in done)), metrics

    @cached_property
    def _evaluated(self) -> tuple[Key, ...]:
        return (*read_by(self.graph.losses), *read_by(self.graph.metrics))

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
        given = self.batch(batch, wanted=self._evaluated)
        if isinstance(state, Replicas):
            done = [self._compiled_evaluate(one, given) for one in state.states]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *done)
        return self._compiled_evaluate(state, given)

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
        return self._compiled_predict(state, self.batch(batch, wanted=self._predicted))

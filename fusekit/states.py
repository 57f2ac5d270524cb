"""What a program's state holds: how it starts, where each leaf lives, and which leaves train."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from fusekit.component import OperatorSpec
from fusekit.config.train import Train
from fusekit.graph.packing import canonical_names, names_of, step_name, unstacked
from fusekit.graph.unit import Group
from fusekit.hosts.rows import placed
from fusekit.layout import Layout
from fusekit.model import FusionModel
from fusekit.objective import read_by, traced
from fusekit.train.optimizer import FROZEN, decays, labeller, transformation
from fusekit.train.state import TrainState
from fusekit.walk.values import State


class States:
    """Makes, places and flattens the states of one model.

    Args:
      model: whose state.
      layout: where it lives.
      train: the optimiser, its groups and the dtype of computation.
      steps: how many steps the learning-rate schedule spans.
      after: what is done to the optimiser's updates last.
    """

    def __init__(
        self,
        model: FusionModel,
        layout: Layout,
        train: Train,
        steps: int,
        after: optax.GradientTransformation | None = None,
    ):
        self.model = model
        self.layout = layout
        self.train = train
        self.steps = steps
        self.after = after
        self.label = labeller(train)

    @cached_property
    def abstract(self) -> TrainState:
        """Shapes of one replica's state."""
        params, variables = self.model.abstract()
        return TrainState(
            step=jax.eval_shape(lambda: jnp.zeros((), jnp.int32)),
            params=params,
            variables=variables,
            optimizer=jax.eval_shape(self.optimizer.init, self.trainable(params)),
            key=jax.eval_shape(lambda: jax.random.key(0)),
        )

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
                by_suffix[name,] = shape, self._layout(group).of_param(shape, axes)

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
            axes = ("layers", *axes) if group.stacked else axes
            return self._layout(group).of_param(leaf.shape, axes)

        return jax.tree_util.tree_map_with_path(place, tree)

    def _layout(self, group: Group) -> Layout:
        return self.layout.of_node(group.units[0].node)

    def _axes(self, path: Any) -> tuple[Group, tuple[str | None, ...]]:
        """The group of a packed leaf, and the logical axes of one unit's array."""
        group = self.model.groups[step_name(path[0])]
        keys = tuple(getattr(s, "key", getattr(s, "idx", None)) for s in path[1:])
        return group, group.template.axes[keys]

    @cached_property
    def side_by_side(self) -> TrainState:
        """Where replicas that run side by side live: each as it would alone."""

        def one(sharding: Any) -> Any:
            return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))

        return jax.tree.map(one, self.shardings)

    @cached_property
    def labels(self) -> Any:
        """The optimiser group of each parameter leaf; `/vector` marks what is not decayed."""

        def one(path: Any, leaf: Any) -> str:
            name, index = names_of(path, self.model.groups)[0]
            averaged = self.model.groups[step_name(path[0])].units[0] in self.model.units.averages
            label = FROZEN if averaged or path in self.unread else self.label(name)
            ndim = leaf.ndim - (index is not None)
            return label if decays(name, ndim) or label == FROZEN else f"{label}/vector"

        return jax.tree_util.tree_map_with_path(one, self.model.abstract()[0])

    @cached_property
    def unread(self) -> frozenset[Any]:
        """Parameter leaves on which no loss depends: those of nodes that no loss needs, and what
        operators have replaced or skipped.

        They are frozen. Only where an operator may replace or skip is the step traced for it.
        """
        params, _ = self.model.abstract()
        operators = [
            n.spec for n in self.model.graph.nodes.values() if isinstance(n.spec, OperatorSpec)
        ]
        if not any(spec.needs & {"replace", "skip"} for spec in operators):
            used = self.model.units_of(read_by(self.model.graph.losses))
            return frozenset(
                path
                for path, _ in jax.tree_util.tree_leaves_with_path(params)
                if used.isdisjoint(self.model.groups[step_name(path[0])].units)
            )
        flat = jax.tree_util.tree_leaves_with_path(params)
        closed = traced(self.model, self.train.compute)
        used = dce_jaxpr(closed.jaxpr, [True])[1][: len(flat)]
        return frozenset(path for (path, _), use in zip(flat, used, strict=True) if not use)

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        own = self._declared()
        return own if self.after is None else optax.chain(own, self.after)

    def _declared(self) -> optax.GradientTransformation:
        """The optimiser of the config, on packed parameters."""
        labels = self.trainable(self.labels)
        if self.train.optimizer.elementwise:
            return transformation(self.train, self.steps, labels)
        flat, axes = {}, {}
        for path, label in jax.tree_util.tree_leaves_with_path(labels):
            group = self.model.groups[step_name(path[0])]
            keys = tuple(getattr(s, "key", getattr(s, "idx", None)) for s in path[1:])
            for name, _ in names_of(path, self.model.groups):
                flat[name], axes[name] = label, group.template.axes[keys]
        return unstacked(transformation(self.train, self.steps, flat, axes), self.model.groups)

    def trainable(self, tree: Any) -> Any:
        """The same tree with `None` in place of frozen leaves."""
        return jax.tree.map(
            lambda label, leaf: None if label == FROZEN else leaf, self.labels, tree
        )

    @cached_property
    def still(self) -> frozenset[str]:
        return still(self.model, self.train)

    def updated(self, variables: State, before: State) -> State:
        """The variables after a step: those of frozen groups as they were."""
        return {n: before[n] if n in self.still else v for n, v in variables.items()}

    def whole(self, trained: Any, params: State) -> State:
        """All parameters: the trained ones, and the frozen ones of `params`."""
        return jax.tree.map(
            lambda label, old, new: old if label == FROZEN else new,
            self.labels,
            params,
            trained,
            is_leaf=lambda leaf: leaf is None,
        )

    def fresh(self, key: Array) -> TrainState:
        """One replica's first state, compiled once per kind of layer and not per layer."""
        init_key, run_key = jax.random.split(key)
        params, variables = {}, {}
        place = self.shardings
        for name, group in self.model.groups.items():
            init = self._compiled_unit_init(name, group)
            params[name], variables[name] = init(group.keys(init_key))
        optimizer = jax.jit(self.optimizer.init, out_shardings=place.optimizer)
        return TrainState(
            step=placed(jnp.zeros((), jnp.int32), place.step),
            params=params,
            variables=variables,
            optimizer=optimizer(self.trainable(params)),
            key=placed(run_key, place.key),
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


def still(model: FusionModel, train: Train) -> frozenset[str]:
    """Groups all of whose parameters `trainable` freezes: their statistics stay as they are."""
    label, found = labeller(train), set()
    for name, group in model.groups.items():
        paths = canonical_names({name: group.abstract()[0]}, model.groups)
        averaged = group.units[0] in model.units.averages
        if paths and not averaged and all(label(path) == FROZEN for path in paths):
            found.add(name)
    return frozenset(found)

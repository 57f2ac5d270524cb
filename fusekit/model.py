"""The model: walks a graph's schedule with given parameters. Functional at the edge.

`FusionModel` holds no arrays. Parameters and variables are mappings from group name to a plain
nested dict, as `init` makes them; `apply` gives every value that was asked for, and the variables
as they stand afterwards.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fusekit.component import Remat
from fusekit.context import Context
from fusekit.errors import ConfigError
from fusekit.graph.graph import Graph
from fusekit.graph.node import Event, Key
from fusekit.graph.recompute import pieces
from fusekit.graph.schedule import Item, Scan, schedule
from fusekit.graph.unit import END, Group, Template, Tree, UnitId, variables_of
from fusekit.graph.units import units
from fusekit.remat import least, recomputed, remat_of, saved
from fusekit.stream import Stream
from fusekit.walk.run import Run
from fusekit.walk.values import State, Values, merged


class FusionModel:
    """A graph made runnable.

    Args:
      graph: what to run.
      scan: the least number of repeats that are scanned; 0 unrolls everything. Or, by node.
      apart: labels a parameter's canonical path; layers whose parameters differ in label are not
        stacked together (trainable and frozen ones, say).
    """

    def __init__(
        self,
        graph: Graph,
        *,
        scan: int | Callable[[str], int] = 0,
        apart: Callable[[str], Hashable] | None = None,
    ):
        self.graph = graph
        self.units = units(graph)
        if self.units.problems:
            raise ConfigError(self.units.problems)
        self.templates = self.units.templates
        self._apart = apart or (lambda path: None)

        def least(event: Event) -> int:
            return scan(event.node) if callable(scan) else scan

        self.items: tuple[Item, ...] = (
            schedule(graph.events, alike=self._alike, least=least) if scan else graph.events
        )
        self.groups: dict[str, Group] = {}
        self.place_of: dict[UnitId, tuple[str, int]] = {}
        self._pack()

    def _alike(self, event: Event) -> Any:
        """What two repeats of an event must share to be one scanned body."""
        unit = UnitId(event.node, event.index)
        signatures = tuple(self._canonical(self.graph.signatures.get(key)) for key in event.gives)
        template = self.units.template(unit)
        shell = self.units.template(UnitId(event.node))
        fixed = event.kind != "layer" and shell is not None and bool(shell.variables)
        return (
            id(template) if template else None,
            self._labels(unit, template) if template else None,
            signatures,
            event.index if fixed else None,
        )

    def _labels(self, unit: UnitId, template: Template) -> tuple[Hashable, ...]:
        owner = self.units.owner(unit).path
        return tuple(self._apart(".".join([owner, *map(str, path)])) for path in template.axes)

    @staticmethod
    def _canonical(given: Any) -> Any:
        return tuple(sorted(given.items())) if isinstance(given, dict) else given

    def _pack(self) -> None:
        """Groups the units: those of one slot of a scan together, the others singly."""
        for item in self.items:
            if not isinstance(item, Scan):
                continue
            for slot in range(len(item.repeats[0])):
                node = item.repeats[0][slot].node
                units = tuple(self.units.owner(UnitId(node, index)) for index in item.indices(slot))
                template = self.templates.get(units[0])
                if template is None or any(unit in self.place_of for unit in units):
                    continue
                group = Group(units, template, True, self._origins(units))
                self.groups[group.name] = group
                for position, unit in enumerate(units):
                    self.place_of[unit] = (group.name, position)
        for unit, template in self.templates.items():
            if unit not in self.place_of:
                group = Group((unit,), template, False, self._origins((unit,)))
                self.groups[group.name] = group
                self.place_of[unit] = (group.name, -1)

    def _origins(self, units: tuple[UnitId, ...]) -> tuple[UnitId, ...]:
        return tuple(self.units.origins.get(unit, unit) for unit in units)

    def of_units(self, tree: State, units: Sequence[UnitId]) -> Tree:
        """The parameters or variables of some units, stacked, from those of all groups."""
        name, _ = self.place_of[units[0]]
        if self.groups[name].units == tuple(units) and self.groups[name].stacked:
            return tree[name]
        parts = [self.of_unit(tree, unit) for unit in units]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    def of_unit(self, tree: State, unit: UnitId) -> Tree:
        """The parameters or variables of one unit, from those of all groups."""
        name, position = self.place_of[unit]
        return tree[name] if position < 0 else jax.tree.map(lambda leaf: leaf[position], tree[name])

    def with_unit(self, tree: State, unit: UnitId, new: Tree) -> Tree:
        """What the unit's group holds, with new values for this unit."""
        name, position = self.place_of[unit]
        if position < 0:
            return new
        return jax.tree.map(lambda old, one: old.at[position].set(one), tree[name], new)

    def averaged(self, state: State) -> State:
        """Parameters or variables after a step, averages brought up to date."""
        found = dict(state)
        for name, group in self.groups.items():
            decay = self.units.averages.get(group.units[0])
            if decay is None:
                continue
            origins = [self.units.owner(unit) for unit in group.origins]
            now = self.of_units if group.stacked else self._of_one
            found[name] = _averaged(state[name], now(state, origins), decay)
        return found

    def _of_one(self, tree: State, units: Sequence[UnitId]) -> Tree:
        return self.of_unit(tree, units[0])

    def abstract(self) -> tuple[State, State]:
        """Shapes of parameters and variables."""
        made = {name: group.abstract() for name, group in self.groups.items()}
        return {n: p for n, (p, _) in made.items()}, {n: v for n, (_, v) in made.items()}

    def needed(self, wanted: Iterable[Key] | None) -> tuple[Item, ...]:
        """The items that the wanted values need; all of them for `None`."""
        if wanted is None:
            return self.items
        keys, needed = set(wanted), []
        for item in reversed(self.items):
            events = [e for r in item.repeats for e in r] if isinstance(item, Scan) else [item]
            if any(key in keys for event in events for key in event.gives):
                needed.append(item)
                keys.update(read.key for event in events for _, read in event.reads)
        return tuple(reversed(needed))

    def units_of(self, wanted: Iterable[Key]) -> frozenset[UnitId]:
        """The units that the wanted values need, and those of the stage's losses."""
        used = {UnitId(f"losses.{name}") for name in self.graph.losses}
        for item in self.needed(wanted):
            events = [e for r in item.repeats for e in r] if isinstance(item, Scan) else [item]
            for event in events:
                layer = END if event.kind == "end" else event.index
                used |= {UnitId(event.node), UnitId(event.node, layer)}
        return frozenset(map(self.units.owner, used))

    def entries(self, wanted: Iterable[Key] | None = None) -> list[str]:
        """The batch entries that the wanted values need."""
        return [
            item.node.removeprefix("batch.")
            for item in self.needed(wanted)
            if isinstance(item, Event) and item.kind == "batch"
        ]

    def apply(
        self,
        params: State,
        variables: State,
        batch: Mapping[str, Stream],
        *,
        context: Context,
        wanted: Iterable[Key] | None = None,
    ) -> tuple[Values, State]:
        """Runs the graph on a batch, or the part of it that gives the `wanted` values.

        Gives all values found on the way, and the variables afterwards.
        """
        run = Run(self, params, dict(variables), context, batch)
        items = self.needed(wanted)
        for item in pieces(items, self.remat) if context.training else items:
            run.item(item)
        return run.values, run.variables

    def remat(self, events: Iterable[Event]) -> Remat:
        """What the layers among events that run as one piece keep for the backward pass."""
        return least(remat_of(self.graph, e.node) for e in events if e.kind == "layer")

    def recomputed(self, function: Callable[..., Any], remat: Remat) -> Any:
        """The function, which keeps what `remat` says."""
        return recomputed(function, remat, saved(self.graph))

    def asked(self, context: Context, node: str) -> Context:
        """The context with what `mesh` says runs the operations of a node or a loss. Where it is
        not known what device runs them, nothing is asked for."""
        if context.device is None:
            return context
        kernel, named = self.graph.experiment.mesh.kernel_of(node)
        return replace(context, kernel=kernel, named=named and context.named)

    def loss_module(self, name: str, params: State, variables: State, context: Context) -> Any:
        """The module of one loss."""
        group = f"losses.{name}"
        template = self.groups[group].template
        return merged(template, params[group], variables[group], group, context)

    def after(self, unit: UnitId, module: Any, variables: State) -> State:
        """The variables after a module outside the walk (a loss) was called."""
        name, _ = self.place_of[unit]
        if not jax.tree.leaves(self.templates[unit].variables):
            return variables
        return {**variables, name: variables_of(module)}


def _averaged(before: Tree, now: Tree, decay: float) -> Tree:
    """An average one step on; of what has not changed, the same to the bit. Whole numbers are
    copied."""

    def one(old: Array, new: Array) -> Array:
        inexact = jnp.issubdtype(old.dtype, jnp.inexact)
        return old + (1.0 - decay) * (new - old) if inexact else new

    return jax.tree.map(one, before, now)

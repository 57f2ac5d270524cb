"""The model: walks a graph's schedule with given parameters. Functional at the edge.

`FusionModel` holds no arrays. Parameters and variables are mappings from group name to a plain
nested dict, as `init` makes them; `apply` gives every value that was asked for, and the variables
as they stand afterwards.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from fusekit.component import StackSpec
from fusekit.context import Context
from fusekit.graph.graph import Graph
from fusekit.graph.node import Event, Key
from fusekit.graph.recompute import pieces
from fusekit.graph.schedule import Item, Scan, schedule
from fusekit.graph.units import END, Group, Template, UnitId, templates, variables_of
from fusekit.stream import Stream
from fusekit.walk.run import Run
from fusekit.walk.values import State, Values, merged


class FusionModel:
    """A graph made runnable.

    Args:
      graph: what to run.
      scan: the least number of repeats that are scanned; 0 unrolls everything.
      apart: labels a parameter's canonical path; layers whose parameters differ in label are not
        stacked together (trainable and frozen ones, say).
    """

    def __init__(
        self, graph: Graph, *, scan: int = 0, apart: Callable[[str], Hashable] | None = None
    ):
        self.graph = graph
        self.templates = templates(graph)
        self._apart = apart or (lambda path: None)
        self.items: tuple[Item, ...] = (
            schedule(graph.events, alike=self._alike, least=scan) if scan else graph.events
        )
        self.groups: dict[str, Group] = {}
        self.place_of: dict[UnitId, tuple[str, int]] = {}
        self._pack()

    def _alike(self, event: Event) -> Any:
        """What two repeats of an event must share to be one scanned body."""
        unit = UnitId(event.node, event.index)
        signatures = tuple(self._canonical(self.graph.signatures.get(key)) for key in event.gives)
        template = self.templates.get(unit)
        shell = self.templates.get(UnitId(event.node))
        fixed = event.kind != "layer" and shell is not None and bool(shell.variables)
        return (
            id(template) if template else None,
            self._labels(unit, template) if template else None,
            signatures,
            event.index if fixed else None,
        )

    def _labels(self, unit: UnitId, template: Template) -> tuple[Hashable, ...]:
        return tuple(self._apart(".".join([unit.path, *map(str, path)])) for path in template.axes)

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
                units = tuple(UnitId(node, index) for index in item.indices(slot))
                template = self.templates.get(units[0])
                if template is None or units[0] in self.place_of:
                    continue
                group = Group(units, template, stacked=True)
                self.groups[group.name] = group
                for position, unit in enumerate(units):
                    self.place_of[unit] = (group.name, position)
        for unit, template in self.templates.items():
            if unit not in self.place_of:
                group = Group((unit,), template, stacked=False)
                self.groups[group.name] = group
                self.place_of[unit] = (group.name, -1)

    def init(self, key: Array) -> tuple[State, State]:
        """Initial parameters and variables, of the canonical paths and `key` alone."""
        made = {name: group.init(key) for name, group in self.groups.items()}
        return {n: p for n, (p, _) in made.items()}, {n: v for n, (_, v) in made.items()}

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
        """The units that the wanted values need, and those of losses."""
        used = {unit for unit in self.templates if unit.node.startswith("losses.")}
        for item in self.needed(wanted):
            events = [e for r in item.repeats for e in r] if isinstance(item, Scan) else [item]
            for event in events:
                layer = END if event.kind == "end" else event.index
                used |= {UnitId(event.node), UnitId(event.node, layer)}
        return frozenset(used)

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
        for item in pieces(items, self._recomputed) if context.training else items:
            run.item(item)
        return run.values, run.variables

    def _recomputed(self, event: Event) -> bool:
        spec = self.graph.nodes[event.node].spec
        return isinstance(spec, StackSpec) and spec.remat == "full"

    def loss_module(self, name: str, params: State, variables: State, context: Context) -> Any:
        """The module of one loss."""
        group = f"losses.{name}"
        return merged(self.groups[group].template, params[group], variables[group], context)

    def after(self, unit: UnitId, module: Any, variables: State) -> State:
        """The variables after a module outside the walk (a loss) was called."""
        name, _ = self.place_of[unit]
        if not jax.tree.leaves(self.templates[unit].variables):
            return variables
        return {**variables, name: variables_of(module)}

"""Runs of equal layers as one `lax.scan`, with the values that running them one by one gives."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from fusekit.graph.schedule import Carried, Constant, Local, Scan, Varying
from fusekit.graph.select import select_stream
from fusekit.graph.unit import Template, Tree, UnitId
from fusekit.layered import LayerOutput
from fusekit.walk.values import State, is_raw, like

if TYPE_CHECKING:
    from fusekit.walk.run import Run


class ScanRun:
    """One scan: sorts what it reads into constants, varying inputs and carries."""

    def __init__(self, run: "Run", scan: Scan):
        self.run, self.scan = run, scan
        self.model = run.model
        self.events = scan.repeats[0]
        self.units: dict[UnitId, tuple[UnitId, ...]] = {}
        """By the unit of the first repeat, those of all."""
        for slot in range(len(self.events)):
            self._units_of(slot)

    def _units_of(self, slot: int) -> None:
        """Notes the units that an event runs, and the layers that an operator looks at."""
        events = [repeat[slot] for repeat in self.scan.repeats]
        rows = [[UnitId(event.node, event.index)] for event in events]
        if events[0].kind == "enter":
            nodes = self.model.graph.nodes
            for row, event in zip(rows, events, strict=True):
                row += [UnitId(*where) for where in nodes[event.node].places[event.index].stacks]
        for units in zip(*rows, strict=True):
            if self.model.units.template(units[0]) is not None:
                self.units[units[0]] = units

    def go(self) -> None:
        run, scan = self.run, self.scan
        first = {c: run.values[c.first] for c in scan.carries}
        indices = jnp.asarray(
            [[event.index for event in repeat] for repeat in scan.repeats], jnp.int32
        )
        varying = {
            (j, n): jax.tree.map(
                lambda *leaves: jnp.stack(leaves), *[run.values[key] for key in source.keys]
            )
            for j, sources in enumerate(scan.sources)
            for n, source in enumerate(sources)
            if isinstance(source, Varying)
        }
        xs = (
            indices,
            self._stacked(run.params),
            self._stacked(run.variables),
            varying,
        )
        remat = self.model.remat(self.events) if run.context.training else "none"
        body = self.model.recomputed(self._body, remat)
        carry, (given, variables, found) = jax.lax.scan(body, [first[c] for c in scan.carries], xs)
        self._store(variables)
        self._publish(carry, given, found)

    def _stacked(self, tree: State) -> dict[UnitId, Tree]:
        """Parameters or variables of all repeats, by the unit of the first."""
        owner = self.model.units.owner
        return {
            first: self.model.of_units(tree, [owner(unit) for unit in units])
            for first, units in self.units.items()
        }

    def _store(self, variables: dict[UnitId, Tree]) -> None:
        """Keeps the variables of all repeats as they stand."""
        owner = self.model.units.owner
        for first, units in self.units.items():
            if jax.tree.leaves(variables[first]):
                self.run.store_all([owner(unit) for unit in units], variables[first])

    def _body(self, carry: list[Any], xs: Any) -> tuple[list[Any], Any]:
        indices, params, variables, varying = xs
        run, scan = self.run, self.scan
        carried = dict(zip(scan.carries, carry, strict=True))
        variables = dict(variables)
        state_of = ScanState(self, params, variables)
        slots: dict[tuple[int, int], Any] = {}
        found: list[dict[Any, Any]] = []

        def value(j: int, n: int, source: Any) -> Any:
            match source:
                case Local(slot):
                    return slots[slot]
                case Carried():
                    return carried[source]
                case Constant(key):
                    return run.values[key]
                case _:
                    return varying[j, n]

        for j, event in enumerate(self.events):
            inputs: dict[str, Any] = {}
            for n, (role, read) in enumerate(event.reads):
                given = value(j, n, scan.sources[j][n])
                if not is_raw(event, role) and read.key.kind not in ("edit", "state", "mid"):
                    given = given.stream if isinstance(given, LayerOutput) else given
                    given = select_stream(given, read.ports)
                inputs[role] = given
            with run.context.collecting() as (context, collector):
                outs = run.run(event, indices[j], inputs, state_of, context)
            found.append(collector.found)
            slots.update({(j, g): out for g, out in enumerate(outs)})
        after = [like(slots[c.slot], carried[c], self.events[c.slot[0]].node) for c in scan.carries]
        wanted = {slot: slots[slot] for slot in self._wanted()}
        return after, (wanted, variables, found)

    def _wanted(self) -> list[tuple[int, int]]:
        """Slots whose values somebody outside may read: running streams and ports."""
        kinds = ("layer", "ports")
        return [
            (j, g)
            for j, event in enumerate(self.events)
            for g, key in enumerate(event.gives)
            if key.kind in kinds and self._read_outside(j, g)
        ]

    def _read_outside(self, j: int, g: int) -> bool:
        keys = {repeat[j].gives[g] for repeat in self.scan.repeats}
        last = self.scan.repeats[-1][j].gives[g]
        carried = any(c.slot == (j, g) for c in self.scan.carries)
        inside = {id(event) for repeat in self.scan.repeats for event in repeat}
        graph = self.model.graph
        reads = [
            read.key for event in graph.events if id(event) not in inside for _, read in event.reads
        ]
        for objective in (*graph.losses.values(), *graph.metrics.values()):
            reads += [read.key for wire in objective.wires.values() for read in wire.reads]
        return any(key in keys and not (carried and key == last) for key in reads)

    def _publish(self, carry: list[Any], given: dict[Any, Any], found: list[Any]) -> None:
        run, scan = self.run, self.scan
        for (j, g), stacked in given.items():
            for i, repeat in enumerate(scan.repeats):
                run.values[repeat[j].gives[g]] = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        for c, value in zip(scan.carries, carry, strict=True):
            j, g = c.slot
            run.values[scan.repeats[-1][j].gives[g]] = value
        for collected in found:
            for (path, name), values in collected.items():
                for value in values:
                    for i in range(scan.count):
                        one = jax.tree.map(lambda leaf, i=i: leaf[i], value)
                        run.context.collector.add(path, name, one)


class ScanState:
    """The state of units inside a scan's body."""

    def __init__(self, scan: ScanRun, params: dict[UnitId, Tree], variables: dict[UnitId, Tree]):
        self.scan, self.params, self.variables = scan, params, variables

    def __call__(self, unit: UnitId) -> tuple[Template, Tree, Tree] | None:
        if unit not in self.scan.units:
            return self.scan.run._state_of(unit)
        template = self.scan.model.units.template(unit)
        assert template is not None
        return template, self.params[unit], self.variables[unit]

    def store(self, unit: UnitId, variables: Tree) -> None:
        self.variables[unit] = variables

"""One walk through a graph's events, with given parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from fusekit.context import Context
from fusekit.graph.infer import split_inputs
from fusekit.graph.node import Event, Read
from fusekit.graph.recompute import Recomputed
from fusekit.graph.schedule import Item, Scan
from fusekit.graph.select import select_stream
from fusekit.graph.unit import END, Template, Tree, UnitId, variables_of
from fusekit.layered import Edits, LayerOutput
from fusekit.scope import node_scope
from fusekit.stream import Signature, Stream
from fusekit.walk.scan import ScanRun
from fusekit.walk.values import (
    State,
    Values,
    constrained,
    described,
    entered,
    finished,
    in_dtype,
    is_raw,
    merged,
)

if TYPE_CHECKING:
    from fusekit.model import FusionModel


class Run:
    """One walk through the events: the values so far, and the variables."""

    def __init__(
        self,
        model: "FusionModel",
        params: State,
        variables: State,
        context: Context,
        batch: Mapping[str, Stream],
    ):
        self.model = model
        self.params = params
        self.variables = variables
        self.context = context
        self.batch = batch
        self.values: Values = {}

    def item(self, item: Item | Recomputed) -> None:
        """Runs one item of the walk."""
        if isinstance(item, Recomputed):
            self.recomputed(item)
        elif isinstance(item, Scan):
            self.scan(item)
        elif item.kind == "batch":
            signature = self.model.graph.signatures[item.gives[0]]
            assert isinstance(signature, Signature)
            given = self.batch[item.node.removeprefix("batch.")]
            valid = self.batch.get("valid")
            self.values[item.gives[0]] = entered(given, signature, valid, self.context)
        else:
            self.event(item)

    def recomputed(self, piece: Recomputed) -> None:
        """Runs items of which the backward pass keeps what their policy says.

        What they read is closed over: `jax.checkpoint` differentiates with respect to it too.
        """

        def body() -> tuple[list[Any], State, dict[Any, list[Any]]]:
            with self.context.collecting() as (context, collector):
                inner = Run(self.model, self.params, dict(self.variables), context, self.batch)
                inner.values = dict(self.values)
                for item in piece.items:
                    inner.item(item)
            variables = {n: v for n, v in inner.variables.items() if v is not self.variables[n]}
            return [inner.values[key] for key in piece.gives], variables, collector.found

        given, variables, found = self.model.recomputed(body, piece.remat)()
        self.values.update(zip(piece.gives, given, strict=True))
        self.variables.update(variables)
        for (path, name), values in found.items():
            for value in values:
                self.context.collector.add(path, name, value)

    def read(self, read: Read) -> Any:
        """The value that a read names, with its ports applied."""
        value = self.values[read.key]
        if read.key.kind in ("edit", "state", "mid"):
            return value
        if isinstance(value, LayerOutput):
            value = value.stream
        return select_stream(value, read.ports)

    def event(self, event: Event) -> None:
        """Runs one event by itself."""
        inputs = {
            role: self.values[read.key] if is_raw(event, role) else self.read(read)
            for role, read in event.reads
        }
        given = self.run(event, event.index, inputs, self._state_of, self.context)
        for key, value in zip(event.gives, given, strict=True):
            self.values[key] = value

    def _state_of(self, unit: UnitId) -> tuple[Template, Tree, Tree] | None:
        template, owner = self.model.units.template(unit), self.model.units.owner(unit)
        if template is None:
            return None
        of = self.model.of_unit
        return template, of(self.params, owner), of(self.variables, owner)

    def store(self, unit: UnitId, variables: Tree) -> None:
        """Keeps the variables of a unit as they stand."""
        owner = self.model.units.owner(unit)
        name, _ = self.model.place_of[owner]
        self.variables[name] = self.model.with_unit(self.variables, owner, variables)

    def store_all(self, owners: Sequence[UnitId], variables: Tree) -> None:
        """Keeps the variables of several units, stacked."""
        name, _ = self.model.place_of[owners[0]]
        if self.model.groups[name].units == tuple(owners):
            self.variables[name] = variables
            return
        for i, owner in enumerate(owners):
            self.store(owner, jax.tree.map(lambda leaf, i=i: leaf[i], variables))

    def run(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        """Runs an event on given inputs; `index` may be traced, in a scan."""
        rule = getattr(self, f"_{event.kind}")
        if context.layout is not None:
            context = replace(context, layout=context.layout.of_node(event.node))
        context = self.model.asked(context, event.node)
        with node_scope(event.node):
            given = rule(event, index, inputs, state_of, context)
        repeat = self.model.graph.nodes[event.node].repeat
        fixed = repeat is not None and repeat.decay is not None and event.kind != "enter"
        return jax.lax.stop_gradient(given) if fixed else given

    def _module(self, unit: UnitId, state_of: Any) -> Any:
        found = state_of(unit)
        if found is None:
            return None
        template, params, variables = found
        return merged(template, params, variables, unit.node, self.context)

    def _keep(self, unit: UnitId, module: Any, state_of: Any) -> None:
        """Keeps a module's variables as they stand after a call."""
        template = self.model.units.template(unit)
        if template is not None and jax.tree.leaves(template.variables):
            store = getattr(state_of, "store", self.store)
            store(unit, variables_of(module))

    def _call(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        unit = UnitId(event.node)
        module = self._module(unit, state_of)
        call = module.deferred if event.gives[0] in context.deferred else module
        out = call(inputs, context=context.at(event.node, index))
        self._keep(unit, module, state_of)
        out = described(out, self.model.graph.signatures[event.gives[0]])
        return (finished(out, context),)

    _start = _call

    def _end(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        unit = UnitId(event.node, END)
        module = self._module(unit, state_of)
        if module is None:
            return (finished(inputs["stream"], context),)
        out = module(inputs["stream"], context=context.at(unit.path))
        self._keep(unit, module, state_of)
        return (finished(out, context),)

    def _layer(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        unit = UnitId(event.node, event.index)
        at = context.at(f"{event.node}.layers", index)
        makers = {role: read.key.node for role, read in event.reads if role.startswith("edit")}
        edits = Edits(tuple(inputs[role] for role in makers), tuple(makers.values()))
        module = self._module(unit, state_of)
        out = module(inputs["stream"], edits, context=at)
        self._keep(unit, module, state_of)
        stream = in_dtype(out.stream, inputs["stream"])
        out = LayerOutput(constrained(stream, context), out.extras)
        return (out if edits.all else out.stream,)

    def _operator(self, event: Event, state_of: Any) -> tuple[UnitId, Any]:
        """The module that acts at a place: the place's own, or the operator's."""
        unit = UnitId(event.node, event.index)
        module = self._module(unit, state_of)
        if module is None:
            unit = UnitId(event.node)
            module = self._module(unit, state_of)
        return unit, module

    def _begin(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        streams, reads = split_streams(inputs)
        module = self._module(UnitId(event.node), state_of)
        return (module.begin(streams, reads, context=context.at(event.node)),)

    def _enter(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        streams, reads = split_streams(inputs)
        unit, module = self._operator(event, state_of)
        place = self.model.graph.nodes[event.node].places[event.index]
        layers = LazyLayers([UnitId(*where) for where in place.stacks], self, state_of)
        edits, state = module.enter(
            streams,
            reads,
            inputs["state"],
            layers=layers,
            context=context.at(f"{event.node}.layers", index),
        )
        self._keep(unit, module, state_of)
        given: list[Any] = []
        for edit, stream in zip(edits, streams, strict=True):
            given += [edit, stream if edit.stream is None else in_dtype(edit.stream, stream)]
        return (*given, state)

    def _leave(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        streams, reads = split_streams(inputs)
        unit, module = self._operator(event, state_of)
        outputs = []
        for number, stream in enumerate(streams):
            raw = inputs.get(f"raw{number}")
            mine = self._order(event, number)
            extras = (raw.extras[mine],) if raw is not None and raw.extras else (None,)
            outputs.append(LayerOutput(stream, extras))
        after, state = module.leave(
            tuple(outputs),
            reads,
            inputs["state"],
            context=context.at(f"{event.node}.layers", index),
        )
        after = [in_dtype(new, old) for new, old in zip(after, streams, strict=True)]
        ports = module.ports(state)
        self._keep(unit, module, state_of)
        out = {"out": next(iter(ports.values())), **ports} if ports else {}
        return (*after, state, out)

    def _order(self, event: Event, number: int) -> int:
        """How many operators stand before this one at one of its places."""
        where = self.model.graph.nodes[event.node].places[event.index].stacks[number]
        order = 0
        for name, node in self.model.graph.nodes.items():
            if name == event.node:
                return order
            order += sum(where in place.stacks for place in node.places)
        return order

    def scan(self, scan: Scan) -> None:
        """Runs repeats as one `lax.scan`; gives the same values as running them one by one."""
        ScanRun(self, scan).go()


class LazyLayers(Sequence[Any]):
    """The layers about to run, merged only if an operator looks at them."""

    def __init__(self, units: list[UnitId], run: Run, state_of: Any):
        self._units, self._run, self._state_of = units, run, state_of

    def __getitem__(self, index: Any) -> Any:
        return self._run._module(self._units[index], self._state_of)

    def __len__(self) -> int:
        return len(self._units)


def split_streams(inputs: dict[str, Any]) -> tuple[tuple[Stream, ...], dict[str, Stream]]:
    """An operator's inputs: the edited streams in order, and what else it reads."""
    return split_inputs(inputs)  # pyright: ignore[reportReturnType, reportArgumentType]

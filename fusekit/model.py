"""The model: walks a graph's schedule with given parameters. Functional at the edge.

`FusionModel` holds no arrays. Parameters and variables are mappings from group name to a plain
nested dict, as `init` makes them; `apply` gives every value that was asked for, and the variables
as they stand afterwards.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fusekit.component import StackSpec
from fusekit.context import Context
from fusekit.graph.graph import Graph
from fusekit.graph.infer import split_inputs
from fusekit.graph.node import Event, Key, Read
from fusekit.graph.recompute import Recomputed, pieces
from fusekit.graph.schedule import Carried, Constant, Item, Local, Scan, Varying, schedule
from fusekit.graph.select import select_stream
from fusekit.graph.units import END, Group, Template, Tree, UnitId, templates, variables_of
from fusekit.layered import Edits, LayerOutput
from fusekit.stream import Signature, Stream

Values = dict[Key, Any]
State = dict[str, Tree]


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

    def enter_batch(self, event: Event, batch: Mapping[str, Stream], context: Context) -> Stream:
        """A batch entry as its signature says: cleaned, cast, mask and presence as declared."""
        signature = self.graph.signatures[event.gives[0]]
        assert isinstance(signature, Signature)
        stream = batch[event.node.removeprefix("batch.")]
        values = jnp.asarray(stream.values)
        if "valid" in batch:
            values = keep_rows(values, jnp.asarray(batch["valid"].values))
        mask = stream.mask if signature.padded else None
        presence = stream.presence if signature.optional else None
        if signature.padded and mask is None:
            mask = jnp.ones(values.shape[:2], bool)
        if signature.optional and presence is None:
            presence = jnp.ones(values.shape[:1], bool)
        clean = stream.with_(
            values=values, mask=mask, presence=presence, spans=signature.spans, grid=signature.grid
        ).clean()
        if signature.dtype == "float" and signature.kind != "table":
            clean = clean.with_(values=clean.values.astype(context.dtype))
        return constrained(clean, context)

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


class Run:
    """One walk through the events: the values so far, and the variables."""

    def __init__(
        self,
        model: FusionModel,
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
            given = self.model.enter_batch(item, self.batch, self.context)
            self.values[item.gives[0]] = given
        else:
            self.event(item)

    def recomputed(self, piece: Recomputed) -> None:
        """Runs items of which the backward pass keeps nothing but what they read.

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

        given, variables, found = jax.checkpoint(body)()
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
        if unit not in self.model.place_of:
            return None
        name, position = self.model.place_of[unit]
        params, variables = self.params[name], self.variables[name]
        if position >= 0:
            params, variables = jax.tree.map(lambda leaf: leaf[position], (params, variables))
        return self.model.groups[name].template, params, variables

    def _store(self, unit: UnitId, variables: Tree) -> None:
        name, position = self.model.place_of[unit]
        if position >= 0:
            variables = jax.tree.map(
                lambda old, new: old.at[position].set(new), self.variables[name], variables
            )
        self.variables[name] = variables

    def run(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        """Runs an event on given inputs; `index` may be traced, in a scan."""
        rule = getattr(self, f"_{event.kind}")
        return rule(event, index, inputs, state_of, context)

    def _module(self, unit: UnitId, state_of: Any) -> Any:
        found = state_of(unit)
        return merged(found[0], found[1], found[2], self.context) if found else None

    def _keep(self, unit: UnitId, module: Any, state_of: Any) -> None:
        """Keeps a module's variables as they stand after a call."""
        template = self.model.templates[unit]
        if jax.tree.leaves(template.variables):
            store = getattr(state_of, "store", self._store)
            store(unit, variables_of(module))

    def _call(
        self, event: Event, index: Any, inputs: dict[str, Any], state_of: Any, context: Context
    ) -> tuple[Any, ...]:
        unit = UnitId(event.node)
        module = self._module(unit, state_of)
        out = module(inputs, context=context.at(event.node, index))
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


class ScanRun:
    """One scan: sorts what it reads into constants, varying inputs and carries."""

    def __init__(self, run: Run, scan: Scan):
        self.run, self.scan = run, scan
        self.model = run.model
        self.events = scan.repeats[0]
        self.units: dict[UnitId, str] = {}
        for slot, event in enumerate(self.events):
            unit = UnitId(event.node, event.index)
            if unit in self.model.place_of:
                self.units[unit] = self.model.place_of[unit][0]
            if event.kind == "enter":
                self._layers_of(slot, event)

    def _layers_of(self, slot: int, event: Event) -> None:
        for where in self.model.graph.nodes[event.node].places[event.index].stacks:
            unit = UnitId(*where)
            if unit in self.model.place_of:
                self.units[unit] = self.model.place_of[unit][0]

    def go(self) -> None:
        run, scan = self.run, self.scan
        first = {c: run.values[c.first] for c in scan.carries}
        names = sorted(set(self.units.values()))
        stacked = [name for name in names if self.model.groups[name].stacked]
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
            {name: run.params[name] for name in stacked},
            {name: run.variables[name] for name in stacked},
            varying,
        )
        remat = any(
            getattr(self.model.graph.nodes[e.node].spec, "remat", "none") == "full"
            for e in self.events
        )
        body = jax.checkpoint(self._body) if remat and run.context.training else self._body
        carry, (given, variables, found) = jax.lax.scan(body, [first[c] for c in scan.carries], xs)
        run.variables.update(variables)
        self._publish(carry, given, found)

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

    def __init__(self, scan: ScanRun, params: State, variables: State):
        self.scan, self.params, self.variables = scan, params, variables

    def __call__(self, unit: UnitId) -> tuple[Template, Tree, Tree] | None:
        name = self.scan.units.get(unit)
        if name is None:
            return self.scan.run._state_of(unit)
        template = self.scan.model.groups[name].template
        return template, self.params[name], self.variables[name]

    def store(self, unit: UnitId, variables: Tree) -> None:
        self.variables[self.scan.units[unit]] = variables


def like(value: Any, before: Any, node: str) -> Any:
    """A carry with the dtypes it came in with; its structure may not change."""
    if jax.tree.structure(value) != jax.tree.structure(before):
        raise TypeError(
            f"{node} changes the structure of a stream from layer to layer, so it cannot be "
            "scanned: set mesh.layers to unroll"
        )
    return jax.tree.map(lambda new, old: new.astype(old.dtype), value, before)


def is_raw(event: Event, role: str) -> bool:
    """Whether a role wants a layer's whole output, extra tokens included."""
    return event.kind == "leave" and role.startswith("raw")


def in_dtype(stream: Stream, before: Stream) -> Stream:
    """A running stream in the dtype that it had, whatever an operator's arithmetic made of it."""
    return stream.with_(values=stream.values.astype(before.values.dtype))


def keep_rows(values: Array, valid: Array) -> Array:
    """Zeros in rows that only fill the batch up, whatever they hold."""
    full = valid.reshape(valid.shape + (1,) * (values.ndim - 1))
    return jnp.where(full, values, jnp.zeros((), values.dtype))


def merged(template: Template, params: Tree, variables: Tree, context: Context) -> Any:
    """A unit's module, its parameters gathered for use if a mesh stores them in parts."""
    if context.layout is not None:
        params = context.layout.gathered(params, template.axes)
    return template.merge(params, variables)


def described(out: Any, signature: Any) -> Any:
    """The streams with the spans that the graph knows, labels included."""
    if isinstance(out, dict):
        return {port: described(stream, signature[port]) for port, stream in out.items()}
    return out.with_(spans=signature.spans, grid=signature.grid)


def finished(out: Any, context: Context) -> Any:
    """What a node gives: zeros where padded or absent, sharded by the activation rules."""
    if isinstance(out, dict):
        return {name: finished(stream, context) for name, stream in out.items()}
    return constrained(out.clean(), context)


def constrained(stream: Stream, context: Context) -> Stream:
    """The stream, annotated for the mesh if there is one."""
    return stream if context.layout is None else context.layout.constrain(stream)


def split_streams(inputs: dict[str, Any]) -> tuple[tuple[Stream, ...], dict[str, Stream]]:
    """An operator's inputs: the edited streams in order, and what else it reads."""
    return split_inputs(inputs)  # pyright: ignore[reportReturnType, reportArgumentType]

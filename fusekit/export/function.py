"""What a model answers, as a function of plain arrays: `call(parameters, inputs) -> outputs`.

Arrays are known by name: `image`, `text.mask`, `audio.presence`; parameters by canonical path.
Layers are unrolled, so that each parameter is an argument by itself and nothing is stacked.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array

from fusekit.chosen import Choices
from fusekit.context import DTYPES, Collector, Context
from fusekit.errors import ExportError, nearest
from fusekit.export.manifest import BATCH, Input, Output, Port, Shape
from fusekit.graph.graph import Graph
from fusekit.graph.link import answering, link_of
from fusekit.graph.node import Key, Read
from fusekit.graph.packing import names_of
from fusekit.graph.schedule import Scan
from fusekit.graph.select import select_signature
from fusekit.model import FusionModel
from fusekit.objective import read
from fusekit.stream import Signature, Stream

KINDS = {"float": "float32", "int": "int32", "bool": "bool"}


class Function:
    """The part of a model that its answers need.

    Args:
      graph: of the model.
      heads: which answers; default all. Raises `ExportError` for a name that answers nothing.
    """

    def __init__(self, graph: Graph, heads: Collection[str] | None = None):
        self.graph = graph
        self.device: Any = None
        self.choices: Choices = {}
        self.model = FusionModel(graph, scan=0)
        self.heads = heads
        self.dtype = DTYPES[graph.experiment.train.compute]
        self.reads: dict[str, Read] = {}
        for name in _chosen(graph, heads):
            given = graph.outputs_of(name)
            for k, one in enumerate(given):
                self.reads[name if len(given) == 1 else f"{name}@{k}"] = one
        self.wanted = tuple(one.key for one in self.reads.values())

    def on(self, device: Any) -> "Function":
        """The same answers, with kernels that run on such a device, wherever `mesh` asks for no
        other form. It is then for a fixed number of rows."""
        experiment = self.graph.experiment
        mesh = experiment.mesh
        if mesh.kernel == "auto":
            mesh = mesh.model_copy(update={"kernel": "pallas"})
        graph = replace(self.graph, experiment=experiment.model_copy(update={"mesh": mesh}))
        made = Function(graph, self.heads)
        made.device = device
        made.used = self.used
        return made

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """What goes in: only what the answers depend on."""
        return tuple(self._input(name) for name in self.model.entries(self.wanted))

    def _input(self, name: str) -> Input:
        signature = self.graph.signatures[Key("out", f"batch.{name}")]
        assert isinstance(signature, Signature)
        shape: Shape = (BATCH, *signature.shape)
        return Input(
            name=name,
            kind=signature.kind,
            values=Port(name, shape, KINDS[signature.dtype]),
            mask=Port(f"{name}.mask", shape[:2], "bool") if signature.padded else None,
            presence=Port(f"{name}.presence", shape[:1], "bool") if signature.optional else None,
            classes=signature.classes,
            names=signature.names,
            cardinalities=signature.cardinalities,
            modality=self.graph.nodes[f"batch.{name}"].spec.model_dump(mode="json"),
        )

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """What comes out."""
        shapes = jax.eval_shape(self, *self.arguments(1))
        return tuple(self._output(name, shapes) for name in self.reads)

    def _output(self, name: str, shapes: Mapping[str, Any]) -> Output:
        def port(key: str) -> Port | None:
            found = shapes.get(key)
            return found and Port(key, (BATCH, *found.shape[1:]), found.dtype.name)

        values, one = port(name), self.reads[name]
        assert values is not None
        signature = select_signature(self.graph.signatures[one.key], one.ports, one.text)
        return Output(
            name=name,
            values=values,
            mask=port(f"{name}.mask"),
            presence=port(f"{name}.presence"),
            link=link_of(self.graph, name.partition("@")[0]),
            names=signature.names,
        )

    @cached_property
    def coupled(self) -> tuple[str, ...]:
        """Nodes on the way that make a row's answer depend on other rows."""
        items = self.model.needed(self.wanted)
        events = [e for i in items for e in ([i] if not isinstance(i, Scan) else i.repeats[0])]
        names = dict.fromkeys(event.node for event in events)
        return tuple(n for n in names if self.graph.nodes[n].spec.couples == "always")

    @cached_property
    def rows(self) -> Any:
        """Any number of rows, one at least."""
        (found,) = jax.export.symbolic_shape(BATCH, constraints=[f"{BATCH} >= 1"])
        return found

    def arguments(self, rows: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The shapes of all parameters and of the inputs of so many rows."""
        inputs = {
            port.name: jax.ShapeDtypeStruct((rows, *port.shape[1:]), port.dtype)
            for one in self.inputs
            for port in one.ports
        }
        return dict(self._leaves), inputs

    @cached_property
    def _leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of parameters and variables by canonical path."""
        leaves = jax.tree_util.tree_leaves_with_path(self.model.abstract())
        return {self._name(path): leaf for path, leaf in leaves}

    def _name(self, path: Any) -> str:
        """Of a leaf of (parameters, variables)."""
        ((name, _),) = names_of(path[1:], self.model.groups)
        return name

    @cached_property
    def jitted(self) -> Any:
        """The function, traced once for all platforms."""
        return jax.jit(self.__call__)

    @cached_property
    def used(self) -> tuple[str, ...]:
        """Paths of the parameters on which the answers depend."""
        arguments = self.arguments(self.rows)
        closed = jax.make_jaxpr(self)(*arguments)
        every = sorted(arguments[0]) + [""] * len(arguments[1])
        kept = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[1]
        return tuple(name for name, keep in zip(every, kept, strict=True) if keep and name)

    def __call__(
        self, parameters: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The answers. Of the parameters, those that are not `used` may be left out."""

        def leaf(path: Any, like: Any) -> Any:
            found = parameters.get(self._name(path))
            return jnp.zeros(like.shape, like.dtype) if found is None else found

        params, variables = jax.tree_util.tree_map_with_path(leaf, self.model.abstract())
        batch = {one.name: _stream(one, inputs) for one in self.inputs}
        context = Context(
            mode="predict",
            key=None,
            dtype=self.dtype,
            collector=Collector((), self.choices),
            device=self.device,
            named=False,
        )
        values, _ = self.model.apply(params, variables, batch, context=context, wanted=self.wanted)
        found: dict[str, Array] = {}
        for name, one in self.reads.items():
            stream = read(values, one)
            found[name] = _plain(stream.values)
            if stream.mask is not None:
                found[f"{name}.mask"] = stream.mask
            if stream.presence is not None:
                found[f"{name}.presence"] = stream.presence
        return found


def _chosen(graph: Graph, heads: Collection[str] | None) -> tuple[str, ...]:
    known = answering(graph)
    if not known:
        raise ExportError("nothing answers: there is no head")
    for name in heads or ():
        if name not in known:
            close = nearest(name, known)
            hint = f"\n    did you mean: {', '.join(close)}" if close else ""
            raise ExportError(f"no head is called {name}: {', '.join(known)}{hint}")
    return known if heads is None else tuple(name for name in known if name in heads)


def _stream(one: Input, inputs: Mapping[str, Array]) -> Stream:
    values, mask, presence = (
        None if port is None else inputs[port.name] for port in (one.values, one.mask, one.presence)
    )
    return Stream(values, mask, presence)  # pyright: ignore[reportArgumentType]


def _plain(values: Array) -> Array:
    """Numbers of a dtype that NumPy has: narrow floats as float32, which holds each of them."""
    narrow = jnp.issubdtype(values.dtype, jnp.floating) and values.dtype.itemsize < 4
    return values.astype(jnp.float32) if narrow else values

"""Which backends a train step would choose on some devices, by tracing: nothing is allocated,
compiled or run, and the devices need not be there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax.sharding import AbstractMesh

from fusekit.batch import blank
from fusekit.chosen import Choices, Chosen
from fusekit.context import DTYPES, Collector, Context
from fusekit.graph.graph import Graph
from fusekit.graph.link import answering
from fusekit.layout import ACTIVATIONS, AXES, PARAMS, Layout
from fusekit.model import FusionModel
from fusekit.objective import read_by, walked


@dataclass(frozen=True)
class StandIn:
    """A device that is not here, as far as choices depend on it."""

    platform: str
    device_kind: str
    compute_capability: str = ""


HOST = StandIn("cpu", "cpu")


@dataclass(frozen=True)
class Devices:
    """Devices, and how a mesh lies over them.

    Args:
      device: one of them, or what stands in for it.
      layout: over them, if there are several; its mesh may be abstract.
    """

    device: Any = HOST
    layout: Layout | None = None

    @staticmethod
    def of(layout: Layout) -> "Devices":
        """Those of a layout over real devices."""
        return Devices(layout.mesh.devices.flat[0], layout if layout.size > 1 else None)


def abstract_layout(
    sizes: Mapping[str, int], params: Any = None, activations: Any = None, components: Any = None
) -> Layout:
    """A layout over devices that nobody has named."""
    mesh: Any = AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)
    params, activations = {**PARAMS, **(params or {})}, {**ACTIVATIONS, **(activations or {})}
    return Layout(mesh, params, activations, components or {})


def backends(
    graph: Graph, devices: Devices, *, task: str | None = None, strict: bool = False
) -> tuple[Chosen, ...]:
    """What runs each operation of a train step, in the order of the walk; without losses, of what
    the heads answer.

    Args:
      graph: of one stage.
      devices: that it would run on.
      task: whose step, where tasks alternate; default all of them.
      strict: whether what a component asks for by name, and cannot have, is an error; else it is
        noted.

    Raises:
      LayoutError: the batch does not divide over the mesh.
      BackendError: `strict` only.
    """
    train, choices = graph.experiment.train, Choices()
    model = FusionModel(graph, scan=2)
    context = Context(
        mode="train" if graph.losses else "predict",
        key=jax.random.key(0),
        dtype=DTYPES[train.compute],
        collector=Collector((), choices),
        layout=devices.layout,
        device=devices.device,
        named=strict,
    )
    tasks = [one.losses for name, one in train.tasks.items() if task in (None, name)]
    for names in tasks or [None]:
        if graph.losses:
            rows = blank(model, train.batch, read_by(graph.losses, names))
            function: Any = partial(walked, model, context=context, names=names)
        else:
            reads = [read for name in answering(graph) for read in graph.outputs_of(name)]
            wanted = tuple(read.key for read in reads)
            rows = blank(model, train.batch, wanted)
            function = partial(model.apply, context=replace(context, key=None), wanted=wanted)
        if devices.layout is not None:
            jax.tree.map(devices.layout.batch, rows)
        jax.eval_shape(lambda *given, f=function: (f(*given), ())[1], *model.abstract(), rows)
    return tuple(choices)

"""A plan: whether a train step fits a topology, and what it costs, by component and modality."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, Literal

from fusekit.backends import Devices, StandIn, abstract_layout, backends
from fusekit.chosen import Chosen
from fusekit.config.spec import Experiment
from fusekit.errors import FusekitError, LayoutError
from fusekit.graph import Graph, resolve
from fusekit.layout import AXES, Layout, filled
from fusekit.plan.analytic import analytic
from fusekit.plan.cache import Cache
from fusekit.plan.compiled import Measure, measure
from fusekit.plan.compilers import NoCompilerError, devices
from fusekit.plan.fast import UNTRIED, extrapolated, too_many
from fusekit.plan.rivals import rivals
from fusekit.plan.shorten import runs_of
from fusekit.plan.times import Times, fits, times
from fusekit.plan.traced import flops_of, traced_step
from fusekit.plan.turns import check_task
from fusekit.program import SCAN_FROM
from fusekit.study.alone import only
from fusekit.study.reach import Reach, modalities_read
from fusekit_tpu.chips import CAPABILITY
from fusekit_tpu.topology import Topology

Layers = Literal["scan", "unroll"]
Say = Callable[[str], None]
LOW = 1.12
"""By how much memory carried on from short forms may be too low: a tenth was seen."""
OF_SHORT = (
    "memory is that of short forms carried on, which may be a tenth too low: --exact compiles all",
)
OF_GPUS = (
    "the GPU compiler estimates no cycles: compute is its kernels, each by FLOPs or by bytes",
    "JAX takes three quarters of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says more",
)
How = Literal["compiled", "extrapolated", "analytic"]


@dataclass(frozen=True)
class Priced:
    """A step, one way of running its layers.

    Args:
      layers: `scan` or `unroll`.
      how: compiled whole, extrapolated from short compilations, or by formulas alone.
      cost: of one step on one device.
      times: of it.
      fits: whether it has room.
    """

    layers: Layers
    how: How
    cost: Measure
    times: Times
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What there is to say of one experiment on one topology; all of it estimated.

    Args:
      topology, sizes: chips, and mesh axes over them.
      batch: rows of a step.
      chosen: as the experiment runs its layers.
      other: the other way, for comparison; `None` if it was not asked for, or if it means to
        compile many layers one by one.
      modalities: FLOPs of a step by modality, over all devices; `shared` is what needs several.
      without: FLOPs of a step when an optional modality is left out of the model, by modality.
      notes: what is worth saying.
      kernels: which backend runs each operation, and why.
    """

    topology: Topology
    sizes: Mapping[str, int]
    batch: int
    chosen: Priced
    other: Priced | None
    modalities: Mapping[str, float]
    without: Mapping[str, float]
    flops: float
    notes: tuple[str, ...] = field(default=())
    kernels: tuple[Chosen, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """For a file."""
        found = asdict(self)
        found["topology"] = str(self.topology)
        found["kernels"] = [one.plain() for one in self.kernels]
        for name in ("chosen", "other"):
            for sent in ("ici", "dcn") if found[name] else ():
                cost = found[name]["cost"]
                cost[sent] = {" ".join(axes): size for axes, size in cost[sent].items()}
        return found


def sizes_of(experiment: Experiment, topology: Topology) -> dict[str, int]:
    """Mesh axes over all devices of a topology. A mesh of one device is data-parallel over all.

    Raises `LayoutError` if the mesh has another number of devices.
    """
    mesh = experiment.mesh
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    if prod(sizes.values()) == 1:
        sizes["data"] = -1
    sizes = filled(sizes, topology.devices, topology.block)
    if prod(sizes.values()) != topology.devices:
        shown = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1)
        raise LayoutError(
            f"the mesh {shown} is not the {topology.devices} devices of {topology}: set `data: -1`"
            " to take what the other axes leave"
        )
    return sizes


def on(
    topology: Topology, experiment: Experiment, sizes: Mapping[str, int] | None = None
) -> Devices:
    """The devices of a topology, as far as choices depend on them, with the experiment's mesh.

    Raises `LayoutError` if the mesh has another number of devices.
    """
    chip, sizes = topology.chip, sizes or sizes_of(experiment, topology)
    gpu = chip.platform == "cuda"
    device = StandIn("gpu" if gpu else "tpu", chip.kind, CAPABILITY if gpu else "")
    if topology.devices == 1:
        return Devices(device)
    return Devices(device, abstract_layout(sizes, **experiment.mesh.rules()))


def plan(
    experiment: Experiment,
    topology: Topology,
    *,
    sizes: Mapping[str, int] | None = None,
    task: str | None = None,
    exact: bool = False,
    both: bool = True,
    say: Say = lambda text: None,
    cache: Cache | None = None,
) -> Plan:
    """Prices the train step of one stage.

    Args:
      experiment: of one stage, without `stages`.
      topology: to run on.
      sizes: of mesh axes; default those of the experiment.
      task: whose step, where tasks alternate.
      exact: compile unrolled programs whole, however long.
      both: price the other way of running layers too; many layers one by one only if `exact`.
      say: is told what goes on.
      cache: of earlier compilations.

    Raises:
      LayoutError: mesh, batch and topology do not go together.
      FusekitError: tasks alternate, and it is not said which to plan.
      CompilationError: the compiler refuses the step.
    """
    sizes = dict(sizes or sizes_of(experiment, topology))
    graph, batch = resolve(experiment), experiment.train.batch
    check_task(experiment.train, task)
    say("tracing the step")
    traced = traced_step(graph, batch, task)
    notes = list(rivals(experiment, traced.flops, task))
    first: Layers = layers_of(graph)
    other: Priced | None = None
    try:
        price = pricer(graph, topology, sizes, task=task, exact=exact, say=say, cache=cache)
        chosen = price(first)
        many = too_many(graph) if both and first == "scan" and not exact else 0
        if many:
            notes.append(UNTRIED.format(many, "--exact"))
        elif both:
            other = price("unroll" if first == "scan" else "scan")
        notes += OF_SHORT if chosen.how == "extrapolated" else ()
        notes += OF_GPUS if topology.chip.platform == "cuda" else ()
    except NoCompilerError as error:
        notes.append(f"by formulas alone: {error}")
        cost = analytic(graph, traced, sizes, topology)
        chosen = priced(first, "analytic", cost, topology)
    return Plan(
        topology,
        sizes,
        batch,
        chosen,
        other,
        by_modality(experiment, traced.flops_of),
        _without(experiment, batch, task),
        traced.flops,
        tuple(notes),
        backends(graph, on(topology, experiment, sizes), task=task),
    )


def layers_of(graph: Graph) -> Layers:
    """How the experiment runs its layers: `auto` scans where a run is long."""
    choice = graph.experiment.mesh.layers
    if choice != "auto":
        return choice
    return "scan" if any(run.count >= SCAN_FROM for run in runs_of(graph)) else "unroll"


def pricer(
    graph: Graph,
    topology: Topology,
    sizes: Mapping[str, int],
    *,
    task: str | None = None,
    exact: bool = False,
    say: Say = lambda text: None,
    cache: Cache | None = None,
) -> Callable[[Layers], Priced]:
    """What prices a step, one way of running its layers. Raises `NoCompilerError`."""
    mesh, batch = graph.experiment.mesh, graph.experiment.train.batch
    layout = Layout.of(
        sizes,
        devices=devices(topology),
        slices=mesh.slices,
        **mesh.rules(),
    )

    def compiled(one: Graph, layers: Layers) -> Measure:
        given = {"batch": batch, "slices": mesh.slices, "layers": layers, "task": task}
        return measure(one, layout, topology, **given, cache=cache)

    def price(layers: Layers) -> Priced:
        if layers == "unroll" and not exact:
            cost = extrapolated(graph, lambda one: compiled(one, "unroll"), say, task)
            if cost is not None:
                return priced(layers, "extrapolated", cost, topology)
        say(f"compiling the whole step, layers: {layers}")
        return priced(layers, "compiled", compiled(graph, layers), topology)

    return price


def priced(layers: Layers, how: How, cost: Measure, topology: Topology) -> Priced:
    """A cost with what follows from it on a topology."""
    sure = replace(cost, peak=cost.peak * LOW) if how == "extrapolated" else cost
    return Priced(layers, how, cost, times(cost, topology), fits(sure, topology))


def by_modality(experiment: Experiment, flops_of: Mapping[str, float]) -> dict[str, float]:
    """FLOPs by the modality that a node comes from; `shared` where it comes from several."""
    reach, found = Reach(experiment), dict.fromkeys([*modalities_read(experiment), "shared"], 0.0)
    for node, flops in flops_of.items():
        own = node.removeprefix("batch.")
        name = own.split(".")[-1] if own.split(".")[0] in experiment.parts else own
        from_ = reach.modality(own) if node.startswith("batch.") else reach.of(name)
        key = next(iter(from_)) if len(from_) == 1 else "shared"
        found[key] = found.get(key, 0.0) + flops
    return {name: flops for name, flops in found.items() if flops}


def _without(experiment: Experiment, batch: int, task: str | None) -> dict[str, float]:
    """FLOPs of a step of the model without an optional modality."""
    read = modalities_read(experiment)
    found: dict[str, float] = {}
    for name in read:
        if not experiment.modalities[name].optional or len(read) == 1:
            continue
        try:
            rest = resolve(only(experiment, set(read) - {name}))
            found[name] = sum(flops_of(rest, batch, task).values())
        except FusekitError:
            continue
    return found

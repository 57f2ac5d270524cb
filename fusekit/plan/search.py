"""Which mesh to take: many are priced by formulas, few are compiled, the choice is explained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from fusekit.component import StackSpec
from fusekit.config.frozen import FrozenDict
from fusekit.config.spec import Experiment
from fusekit.errors import FusekitError
from fusekit.graph import Graph, resolve
from fusekit.graph.units import templates
from fusekit.layout import AXES
from fusekit.plan.analytic import analytic
from fusekit.plan.cache import Cache
from fusekit.plan.compiled import CompilationError, Measure
from fusekit.plan.plan import Priced, Say, pricer
from fusekit.plan.times import limit, times
from fusekit.plan.traced import Traced, traced_step
from fusekit_tpu.topology import Topology

FINALISTS = 4
WIDEST = 16
"""The largest `tensor` axis that is tried: sums over it are in every layer."""
ROOM = 1.25
"""How far beyond the limit a layout may be by formulas and still be compiled: they err."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a step.

    Args:
      sizes: of mesh axes.
      remat: whether every stack computes its layers again in the backward pass.
      cost: by formulas.
      seconds: of a step, by formulas: the middle of the range.
      compiled: what the compiler said; `None` if it was not asked.
    """

    sizes: Mapping[str, int]
    remat: bool
    cost: Measure
    seconds: float
    compiled: Priced | None = None

    def __str__(self) -> str:
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.sizes.items() if size > 1)
        return (mesh or "one device") + (", remat" if self.remat else "")

    @property
    def estimate(self) -> float:
        """Seconds of a step as well as they are known."""
        if self.compiled is None:
            return self.seconds
        return (self.compiled.times.shortest + self.compiled.times.longest) / 2


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
      best: `None` if nothing that was compiled fits.
      tried: those that were compiled, best first.
      rest: those that were not, best first.
    """

    best: Candidate | None
    tried: tuple[Candidate, ...]
    rest: tuple[Candidate, ...]


def search(
    experiment: Experiment,
    topology: Topology,
    *,
    finalists: int = FINALISTS,
    say: Say = lambda text: None,
    cache: Cache | None = None,
) -> Found:
    """Looks for the layout of one stage with the shortest step among those that fit.

    Args:
      experiment: of one stage.
      topology: to run on.
      finalists: how many layouts are compiled at most.
      say: is told what goes on.
      cache: of earlier compilations.

    Raises:
      FusekitError: no mesh divides the batch.
    """
    candidates = list(candidates_of(experiment, topology, say))
    if not candidates:
        rows, count = experiment.train.batch, topology.devices
        raise FusekitError(f"a batch of {rows} divides over no mesh of {count} devices")
    most = limit(topology) * ROOM
    near = [one for one in candidates if one.cost.peak <= most]
    order = sorted(near, key=lambda one: one.seconds)
    order += sorted((c for c in candidates if c not in near), key=lambda one: one.cost.peak)
    tried: list[Candidate] = []
    for one in order[:finalists]:
        say(f"compiling {one}")
        priced = _compiled(experiment, topology, one, say, cache)
        if priced is not None:
            tried.append(Candidate(one.sizes, one.remat, one.cost, one.seconds, priced))
    tried.sort(key=lambda one: (not (one.compiled and one.compiled.fits), one.estimate))
    best = next((one for one in tried if one.compiled and one.compiled.fits), None)
    return Found(best, tuple(tried), tuple(order[finalists:]))


def candidates_of(
    experiment: Experiment, topology: Topology, say: Say = lambda text: None
) -> Iterator[Candidate]:
    """Every mesh of the topology over which the batch divides, with and without remat."""
    batch = experiment.train.batch
    for remat in (False, True) if stacks(experiment) else (False,):
        graph = resolve(remade(experiment, remat))
        say(f"tracing the step{', layers computed again' if remat else ''}")
        traced = traced_step(graph, batch)
        for sizes in meshes(graph, topology):
            if batch % prod(sizes[axis] for axis in ("data", "fsdp", "expert")):
                continue
            yield candidate(graph, traced, topology, sizes, remat)


def candidate(
    graph: Graph, traced: Traced, topology: Topology, sizes: Mapping[str, int], remat: bool
) -> Candidate:
    """One layout, priced by formulas."""
    cost = analytic(graph, traced, sizes, topology)
    took = times(cost, topology)
    return Candidate(sizes, remat, cost, (took.shortest + took.longest) / 2)


def meshes(graph: Graph, topology: Topology) -> Iterator[dict[str, int]]:
    """Sizes of `data`, `fsdp`, `tensor` and, where there are experts, `expert`."""
    axes = {
        axis for one in templates(graph).values() for leaf in one.axes.values() for axis in leaf
    }
    crossing = graph.experiment.mesh.slices
    for data, fsdp, tensor, expert in _quarters(topology.devices):
        if tensor > WIDEST or (expert > 1 and "expert" not in axes):
            continue
        sizes = {**dict.fromkeys(AXES, 1), "data": data, "fsdp": fsdp}
        sizes |= {"tensor": tensor, "expert": expert}
        if sizes[crossing] % topology.slices == 0:
            yield sizes


def _quarters(count: int) -> Iterator[tuple[int, int, int, int]]:
    """All ways to write a number as a product of four."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    for a in divisors:
        for b in (n for n in divisors if count // a % n == 0):
            for c in (n for n in divisors if count // a // b % n == 0):
                yield a, b, c, count // a // b // c


def stacks(experiment: Experiment) -> list[str]:
    """Encoders whose layers can be computed again and are not yet."""
    return [
        name
        for name, spec in experiment.encoders.items()
        if isinstance(spec, StackSpec) and (spec.remat or experiment.mesh.remat) == "none"
    ]


def remade(experiment: Experiment, remat: bool) -> Experiment:
    """The experiment, with every stack computing its layers again."""
    if not remat:
        return experiment
    encoders = dict(experiment.encoders)
    for name in stacks(experiment):
        encoders[name] = encoders[name].model_copy(update={"remat": "full"})
    return experiment.model_copy(update={"encoders": FrozenDict(encoders)})


def _compiled(
    experiment: Experiment, topology: Topology, one: Candidate, say: Say, cache: Cache | None
) -> Priced | None:
    """What the compiler says of a candidate; `None` if it refuses it."""
    graph = resolve(remade(experiment, one.remat))
    mesh = experiment.mesh.layers
    try:
        price = pricer(graph, topology, one.sizes, say=say, cache=cache)
        return price("unroll" if mesh == "unroll" else "scan")
    except CompilationError as error:
        say(f"{one}: {error}")
        return None

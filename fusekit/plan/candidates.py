"""Ways to run a step that a search tries: meshes, what layers compute again, microbatches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from fusekit.component import Remat, StackSpec
from fusekit.config.spec import Experiment
from fusekit.coupling import coupled
from fusekit.errors import FusekitError
from fusekit.graph import Graph, resolve
from fusekit.graph.units import templates
from fusekit.layout import AXES
from fusekit.model import FusionModel
from fusekit.plan.analytic import analytic, held
from fusekit.plan.compiled import Measure
from fusekit.plan.plan import Priced, Say
from fusekit.plan.times import times
from fusekit.plan.traced import traced_step
from fusekit_tpu.topology import Topology

WIDEST = 16
"""The largest `tensor` axis that is tried: sums over it are in every layer."""
MOST = 16
"""The most microbatches that are tried."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a step.

    Args:
      sizes: of mesh axes.
      remat: what every stack that does not say computes again in the backward pass.
      microbatches: in which the batch is taken.
      layers: whether equal layers run as a loop.
      cost: by formulas.
      seconds: of a step, by formulas: the middle of the range.
      compiled: what the compiler said; `None` if it was not asked.
    """

    sizes: Mapping[str, int]
    remat: Remat
    microbatches: int
    layers: Literal["scan", "unroll"]
    cost: Measure
    seconds: float
    compiled: Priced | None = None

    def __str__(self) -> str:
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.sizes.items() if size > 1)
        more = [f"remat {self.remat}"] if self.remat != "none" else []
        more += [f"microbatches {self.microbatches}"] if self.microbatches > 1 else []
        return ", ".join([mesh or "one device", *more, self.layers])

    @property
    def estimate(self) -> float:
        """Seconds of a step as well as they are known."""
        if self.compiled is None:
            return self.seconds
        return (self.compiled.times.shortest + self.compiled.times.longest) / 2

    @property
    def mesh(self) -> dict[str, object]:
        """What to write in the section `mesh` for it."""
        sizes = {axis: size for axis, size in self.sizes.items() if size > 1}
        return {
            **sizes,
            "remat": self.remat,
            "microbatches": self.microbatches,
            "layers": self.layers,
        }


def candidates_of(
    experiment: Experiment,
    topology: Topology,
    *,
    layers: Literal["scan", "unroll"] = "scan",
    say: Say = lambda text: None,
) -> Iterator[Candidate]:
    """Every mesh of the topology over which the batch divides, with every kind of remat that the
    stacks have, in as few microbatches as 1, 2, 4, ... where samples are not coupled."""
    batch, found = experiment.train.batch, {}
    for remat in remats(experiment):
        graph = resolve(remade(experiment, remat))
        say(f"tracing the step, remat: {remat}")
        traced = traced_step(graph, batch)
        most = 1 if coupled(FusionModel(graph)) else MOST
        for sizes in meshes(graph, topology):
            key = tuple(sizes.values())
            if key not in found:
                found[key] = held(graph, sizes)
            over, parts = found[key], 1
            while parts <= most and batch % (parts * over.rows) == 0:
                given = {"microbatches": parts, "layers": layers}
                cost = analytic(graph, traced, over, topology, **given)
                took = times(cost, topology)
                seconds = (took.shortest + took.longest) / 2
                yield Candidate(sizes, remat, parts, layers, cost, seconds)
                parts *= 2


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


def remats(experiment: Experiment) -> tuple[Remat, ...]:
    """What is tried of the stacks that do not say: not `offload`, since compilers estimate no time
    of what is copied to the host and back."""
    free = [
        spec
        for spec in experiment.encoders.values()
        if isinstance(spec, StackSpec) and spec.remat is None
    ]
    if not free:
        return (experiment.mesh.remat,)
    named: tuple[Remat, ...] = ("names",) if any(spec.remat_names for spec in free) else ()
    return ("none", "dots", *named, "full")


def remade(
    experiment: Experiment, remat: Remat, microbatches: int = 1, sizes: Mapping[str, int] = {}
) -> Experiment:
    """The experiment with these in its mesh. Raises `FusekitError` as `resolve` does."""
    changes = {**sizes, "preset": None, "remat": remat, "microbatches": microbatches}
    return experiment.model_copy(update={"mesh": experiment.mesh.model_copy(update=changes)})


def price_all(
    experiment: Experiment,
    topology: Topology,
    layers: Literal["scan", "unroll"],
    say: Say,
) -> list[Candidate]:
    """All candidates, best first by formulas. Raises `FusekitError` if there is none."""
    found = list(candidates_of(experiment, topology, layers=layers, say=say))
    if not found:
        rows, count = experiment.train.batch, topology.devices
        raise FusekitError(f"a batch of {rows} divides over no mesh of {count} devices")
    return sorted(found, key=lambda one: one.seconds)

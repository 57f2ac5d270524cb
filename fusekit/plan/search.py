"""Which layout to take: many are priced by formulas, few are compiled, the choice is explained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fusekit.config.spec import Experiment
from fusekit.graph import resolve
from fusekit.graph.graph import Graph
from fusekit.plan.cache import Cache
from fusekit.plan.candidates import Candidate, price_all, remade
from fusekit.plan.compiled import CompilationError
from fusekit.plan.compilers import NoCompilerError, devices
from fusekit.plan.fast import UNTRIED, compilations, too_many
from fusekit.plan.plan import OF_GPUS, Say, pricer
from fusekit.plan.shorten import runs_of
from fusekit.plan.times import fits, limit, times
from fusekit.plan.turns import check_task
from fusekit_tpu.topology import Topology

FINALISTS = 4
"""Compilations at most. A deep program that runs its layers one by one takes two short ones."""
LOW = 1.06
"""By how much formulas may be too low in memory before anything is compiled. Afterwards, by as much
as they were seen to be."""
Layers = Literal["scan", "unroll"]


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
      best: `None` if nothing that was compiled fits.
      tried: those that were compiled, best first.
      rest: those that were not, best first by formulas.
      why: lines that explain the choice.
    """

    best: Candidate | None
    tried: tuple[Candidate, ...]
    rest: tuple[Candidate, ...]
    why: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {
            "best": None if self.best is None else _plain(self.best),
            "tried": [_plain(one) for one in self.tried],
            "rest": [_plain(one) for one in self.rest],
            "why": list(self.why),
        }


def search(
    experiment: Experiment,
    topology: Topology,
    *,
    finalists: int = FINALISTS,
    say: Say = lambda text: None,
    cache: Cache | None = None,
) -> Found:
    """Looks for the layout of one stage with the shortest step among those that fit: over meshes,
    remat, microbatches, and layers in a loop or one by one.

    Args:
      experiment: of one stage.
      topology: to run on.
      finalists: how many compilations there may be; without a compiler formulas decide.
      say: is told what goes on.
      cache: of earlier compilations.

    Raises:
      FusekitError: no mesh divides the batch, or tasks alternate: they have no one step.
    """
    check_task(experiment.train, None)
    graph = resolve(experiment)
    first, other = _ways(graph)
    waiting = price_all(experiment, topology, first, say)
    order, tried = list(waiting), list[Candidate]()
    try:
        devices(topology)
    except NoCompilerError as error:
        return _by_formulas(order, topology, str(error))
    room = limit(topology)
    last = compilations(graph, first)
    spare = compilations(graph, other) if other else 0
    left, low = finalists, LOW
    while waiting and left >= last and (left - last >= spare or _best(tried) is None):
        one = _next(waiting, room, low)
        if one is None:
            break
        waiting.remove(one)
        left -= last
        one = compiled(experiment, topology, one, say, cache)
        if one.compiled is None:
            continue
        tried.append(one)
        low = max(low, one.compiled.cost.peak / one.cost.peak)
    best = _best(tried)
    if other and best is not None and left >= spare:
        again = replace(best, layers=other, compiled=None)
        again = compiled(experiment, topology, again, say, cache)
        tried += [again] if again.compiled else []
    tried.sort(key=lambda one: (not (one.compiled and one.compiled.fits), one.estimate))
    why = _why(order, _best(tried), topology)
    many = too_many(graph) if experiment.mesh.layers == "auto" else 0
    why += (UNTRIED.format(many, "mesh.layers: unroll"),) if many else ()
    why += OF_GPUS if topology.chip.platform == "cuda" else ()
    return Found(_best(tried), tuple(tried), tuple(waiting), why)


def _by_formulas(order: list[Candidate], topology: Topology, reason: str) -> Found:
    """The fastest with some room to spare."""
    best = next((one for one in order if fits(one.cost, topology)), None)
    rest = tuple(one for one in order if one is not best)
    why = _why(order, best, topology)
    return Found(best, (), rest, (f"by formulas alone: {reason}", *why))


def _ways(graph: Graph) -> tuple[Layers, Layers | None]:
    """How layers run in what is tried first, and then, where the experiment leaves it open and it
    makes another program that compiles soon, in the best of that."""
    choice = graph.experiment.mesh.layers
    if choice != "auto":
        return choice, None
    return "scan", "unroll" if runs_of(graph) and not too_many(graph) else None


def _next(waiting: list[Candidate], room: float, low: float) -> Candidate | None:
    """The fastest that may fit; if none may, the smallest."""
    fitting = (one for one in waiting if one.cost.peak * low <= room)
    return next(fitting, min(waiting, key=lambda one: one.cost.peak, default=None))


def _best(tried: list[Candidate]) -> Candidate | None:
    fitting = [one for one in tried if one.compiled and one.compiled.fits]
    return min(fitting, key=lambda one: one.estimate, default=None)


def compiled(
    experiment: Experiment, topology: Topology, one: Candidate, say: Say, cache: Cache | None
) -> Candidate:
    """A candidate with what the compiler says of it; as it is if the compiler refuses it."""
    graph = resolve(remade(experiment, one.remat, one.microbatches, one.sizes))
    say(f"compiling {one}")
    try:
        priced = pricer(graph, topology, one.sizes, say=say, cache=cache)(one.layers)
    except CompilationError as error:
        say(f"{one}: {error}")
        return one
    return replace(one, compiled=priced)


def _why(order: list[Candidate], best: Candidate | None, topology: Topology) -> tuple[str, ...]:
    """What the choice is, what bounds it, and what faster ones lack."""
    room = limit(topology)
    large = [one for one in order if one.cost.peak * LOW > room]
    lines: list[str] = []
    if large:
        lines.append(
            f"{len(large)} of {len(order)} have no room by formulas; the fastest of these, "
            f"{large[0]}, needs {large[0].cost.peak / 2**30:.1f} of {room / 2**30:.1f} GiB"
        )
    if best is None:
        return tuple(lines)
    took = best.compiled.times if best.compiled else times(best.cost, topology)
    lines.append(f"the choice waits most for {took.bound}")
    alone = (one for one in order if one.sizes["data"] == topology.devices)
    plain = next((one for one in alone if one.microbatches == 1 and one.remat == "none"), None)
    if plain is not None and plain.sizes != best.sizes:
        word = "has room" if plain.cost.peak <= room else "has no room"
        lines.append(
            f"data parallelism alone {word} by formulas ({plain.cost.peak / 2**30:.1f} GiB) and "
            f"takes {1e3 * plain.seconds:.3g} ms"
        )
    mesh = ", ".join(f"{name}: {value}" for name, value in best.mesh.items())
    return (*lines, f"to take it: mesh: {{{mesh}}}")


def _plain(one: Candidate) -> dict[str, Any]:
    found: dict[str, Any] = {"mesh": one.mesh, "formulas": _cost(one.cost), "seconds": one.seconds}
    if one.compiled is not None:
        found["compiled"] = {**asdict(one.compiled), "cost": _cost(one.compiled.cost)}
        found["seconds"] = one.estimate
    return found


def _cost(cost: Any) -> dict[str, Any]:
    """A measure whose keys are texts."""
    found = asdict(cost)
    for name in ("ici", "dcn"):
        sent: Mapping[Any, float] = found[name]
        found[name] = {" ".join(axes): size for axes, size in sent.items()}
    return found

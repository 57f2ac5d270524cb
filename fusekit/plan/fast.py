"""What a long program costs, from two short ones.

One has eight repeats of each long run of equal layers, the other ten. What the second costs more is
what two repeats of every run cost together; how much of it is each run's follows from the traced
step: FLOPs for compute, residuals for memory and for what `tensor` sums, parameters for what else
is sent. With fewer repeats another moment is the peak of memory, and less is kept from the forward
pass for the backward pass; and they are hardly faster to compile, since compilers know layers that
they have seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from fusekit.graph.graph import Graph
from fusekit.graph.schedule import Scan
from fusekit.plan.compiled import Measure
from fusekit.plan.shorten import runs_of, shortened
from fusekit.plan.traced import Traced, traced_step

Compile = Callable[[Graph], Measure]
FORMS = (8, 10)
"""Repeats of each long run in the two short forms."""
MOST = 40
"""Layers that are compiled one by one only to compare them with a scan; more take minutes."""
UNTRIED = "layers one by one are not compared: {} of them take minutes to compile, as {} does"
BY = {
    "peak": "kept",
    "hbm": "kept",
    "state": "weights",
    "ici": "weights",
    "dcn": "weights",
    "flops": "flops",
    "cycles": "flops",
    "flops_of": "flops",
    "cycles_of": "flops",
}
"""What of the traced step tells a run's share of each cost."""


def long_runs(graph: Graph, forms: tuple[int, int] = FORMS) -> tuple[Scan, ...]:
    """The runs that short forms cut; none where the two forms together have more than a quarter
    of the layers that repeat, and compiling the whole is not much slower."""
    runs = runs_of(graph)
    cut = tuple(run for run in runs if run.count > forms[1])
    left = sum(len(run.repeats[0]) * min(run.count, form) for run in runs for form in forms)
    whole = sum(len(run.repeats[0]) * run.count for run in runs)
    return cut if graph.whole is None and 4 * left <= whole else ()


def too_many(graph: Graph) -> int:
    """How many layers it takes to price them one by one, if that is too many for a comparison;
    else 0."""
    forms = FORMS if long_runs(graph) else (inf,)
    found = sum(_layers(run) * min(run.count, form) for run in runs_of(graph) for form in forms)
    return int(found) if found > MOST else 0


def _layers(run: Scan) -> int:
    """Of one repeat."""
    return sum(event.kind == "layer" for event in run.repeats[0])


def compilations(graph: Graph, layers: str) -> int:
    """How many it takes to price a graph, one way of running its layers."""
    return 2 if layers == "unroll" and long_runs(graph) else 1


def extrapolated(
    graph: Graph,
    compile: Compile,
    say: Callable[[str], None] = lambda text: None,
    task: str | None = None,
    forms: tuple[int, int] = FORMS,
) -> Measure | None:
    """The cost of a graph whose layers run one by one, from short forms of it.

    Args:
      graph: of one stage.
      compile: gives the cost of a graph.
      say: is told of each compilation.
      task: whose step, where tasks alternate.
      forms: repeats of each long run in the two forms.

    Returns:
      `None` if the graph has no long runs to cut, or one of its short forms does not fit.
    """
    runs = long_runs(graph, forms)
    if not runs:
        return None
    batch = graph.experiment.train.batch
    few, many = ([form] * len(runs) for form in forms)
    say(f"compiling short forms of {len(runs)} runs of equal layers")
    base, longer = (compile(shortened(graph, runs, counts)) for counts in (few, many))
    if not (base.fits and longer.fits):
        return None
    first = traced_step(shortened(graph, runs, few), batch, task)
    more: list[Traced] = []
    for number in range(len(runs)):
        counts = [count + (at == number) for at, count in enumerate(few)]
        more.append(traced_step(shortened(graph, runs, counts), batch, task))
    grown = longer.plus(replace(base, seconds=0.0), -1.0)
    times = [(run.count - forms[0]) / (forms[1] - forms[0]) for run in runs]
    return base.plus(_scaled(grown, first, more, times), 1.0)


def _scaled(grown: Measure, first: Traced, more: list[Traced], times: list[float]) -> Measure:
    """What more repeats of every run cost, each run's share as often as it has that many."""
    values: dict[str, Any] = {}
    for name, by in BY.items():
        value = getattr(grown, name)
        if not isinstance(value, Mapping):
            values[name] = value * _factor(first, more, times, by)
        elif by == "flops":
            values[name] = {
                node: one * _factor(first, more, times, by, node) for node, one in value.items()
            }
        else:
            values[name] = {
                axes: one * _factor(first, more, times, "kept" if "tensor" in axes else by)
                for axes, one in value.items()
            }
    return Measure(**values, seconds=grown.seconds)


def _factor(
    first: Traced, more: list[Traced], times: list[float], by: str, node: str | None = None
) -> float:
    """The mean number of repeats, each run weighted by its share of a repeat's cost; of a node in
    no run, that of all of them."""
    shares = [max(_of(one, by, node) - _of(first, by, node), 0.0) for one in more]
    if not sum(shares):
        if node is not None:
            return _factor(first, more, times, by)
        shares = [1.0] * len(more)
    return sum(s * t for s, t in zip(shares, times, strict=True)) / sum(shares)


def _of(traced: Traced, by: str, node: str | None) -> float:
    if by == "flops":
        return traced.flops if node is None else traced.flops_of.get(node, 0.0)
    return getattr(traced, by)

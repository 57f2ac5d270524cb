"""What a long program costs, from two short ones.

One has a repeat of each run of equal layers, the other two. What the second costs more is what one
repeat of every run costs together; how much of it is each run's follows from the traced step: FLOPs
for compute, residuals for memory and for what `tensor` sums, parameters for what else is sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fusekit.graph.graph import Graph
from fusekit.plan.compiled import Measure
from fusekit.plan.shorten import runs_of, shortened
from fusekit.plan.traced import Traced, traced_step

Compile = Callable[[Graph], Measure]
FEWEST = 1
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


def extrapolated(
    graph: Graph,
    compile: Compile,
    say: Callable[[str], None] = lambda text: None,
    task: str | None = None,
) -> Measure | None:
    """The cost of a graph whose layers run one by one, from short forms of it.

    Args:
      graph: of one stage.
      compile: gives the cost of a graph.
      say: is told of each compilation.
      task: whose step, where tasks alternate.

    Returns:
      `None` if the graph has no runs to cut, or one of its short forms does not fit.
    """
    runs = runs_of(graph)
    if not runs or graph.whole is not None:
        return None
    batch = graph.experiment.train.batch
    few = [FEWEST] * len(runs)
    forms = [shortened(graph, runs, [count + more for count in few]) for more in (0, 1)]
    say(f"compiling short forms of {len(runs)} runs of equal layers")
    base, longer = (compile(form) for form in forms)
    if not (base.fits and longer.fits):
        return None
    first = traced_step(forms[0], batch, task)
    more: list[Traced] = []
    for number in range(len(runs)):
        counts = [count + (at == number) for at, count in enumerate(few)]
        more.append(traced_step(shortened(graph, runs, counts), batch, task))
    grown = longer.plus(replace(base, seconds=0.0), -1.0)
    times = [run.count - FEWEST for run in runs]
    return base.plus(_scaled(grown, first, more, times), 1.0)


def _scaled(grown: Measure, first: Traced, more: list[Traced], times: list[int]) -> Measure:
    """What one more repeat of every run costs, each run's share as often as it has repeats."""
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
    first: Traced, more: list[Traced], times: list[int], by: str, node: str | None = None
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

"""What a long program costs, from short ones."""

from collections.abc import Callable
from dataclasses import replace

from fusekit.graph.graph import Graph
from fusekit.plan.compiled import Measure
from fusekit.plan.shorten import runs_of, shortened

Compile = Callable[[Graph], Measure]


def extrapolated(
    graph: Graph, compile: Compile, say: Callable[[str], None] = lambda text: None
) -> Measure | None:
    """The cost of a graph whose layers run one by one, from one or two repeats of each run.

    Everything is taken to grow by the same with each repeat, memory at its peak too.

    Args:
      graph: of one stage.
      compile: gives the cost of a graph.
      say: is told of each compilation.

    Returns:
      `None` if the graph has no runs to cut, or one of its short forms does not fit.
    """
    runs = runs_of(graph)
    if not runs or graph.whole is not None:
        return None
    ones = [1] * len(runs)
    say(f"compiling with one repeat of each of {len(runs)} runs of layers")
    base = compile(shortened(graph, runs, ones))
    total = base
    for number, run in enumerate(runs):
        counts = [*ones]
        counts[number] = 2
        say(f"compiling with two repeats of run {number + 1}, which has {run.count}")
        more = compile(shortened(graph, runs, counts))
        if not (base.fits and more.fits):
            return None
        grown = more.plus(replace(base, seconds=0.0), -1.0)
        total = total.plus(grown, run.count - 1)
    return total

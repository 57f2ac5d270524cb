"""Whether models beat what learns nothing: the constant predictor, and training on shuffled
targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.graph.graph import Graph
from fusekit.study.comparison import Entry, Margin
from fusekit.study.statistics import draws, percentile_interval
from fusekit.train.evaluate import Columns, Gathered

Models = Sequence[Gathered]


def with_margins(
    entries: Sequence[Entry],
    tested: Mapping[str, Sequence[Gathered | None]],
    controls: Mapping[str, Sequence[Gathered | None]],
    constant: Columns | None,
    graph: Graph,
    metric: str,
    better: str,
    *,
    resamples: int,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> list[Entry]:
    """The entries with their margins over the constant predictor and over their own controls.

    Args:
      entries: of a comparison.
      tested: what each model says of the test rows, one a seed; None for a seed that failed.
      controls: the same after training on shuffled targets.
      constant: what the metric reads of the constant predictor.
      graph: any of theirs: they share the metric.
      metric: to compare by.
      better: whether higher or lower is.
      resamples: of the bootstrap; test rows are drawn, the same for both, seeds are not.
      groups: of the test rows, where these are drawn by group.
      seed: of the draws.
    """
    measures: list[Callable[[NDArray[np.int64]], float]] = []
    plans: dict[tuple[str, str], tuple[int, int, int]] = {}
    size = 0
    for entry in entries:
        ours = [g for g in tested[entry.name] if g is not None]
        if not ours:
            continue
        own = len(measures)
        rows = ours[0].columns[metric].rows
        size = len(rows)
        measures.append(partial(_mean, graph, metric, ours))
        theirs = {"vs_control": [g for g in controls.get(entry.name, ()) if g is not None]}
        if constant is not None:
            theirs["vs_constant"] = [Gathered({}, {metric: Columns(constant.values, rows)})]
        for kind, models in theirs.items():
            if models:
                plans[entry.name, kind] = (own, len(measures), int(rows.sum()))
                measures.append(partial(_mean, graph, metric, models))
    if not plans:
        return list(entries)
    found = draws(size, measures, resamples=resamples, seed=seed, groups=groups)
    whole = [measure(np.arange(size)) for measure in measures]
    margins: dict[str, dict[str, Any]] = {}
    for (name, kind), (own, other, rows) in plans.items():
        samples = percentile_interval(whole[own] - whole[other], found[:, own] - found[:, other])
        beaten = samples.high < 0 if better == "lower" else samples.low > 0
        margins.setdefault(name, {})[kind] = Margin(whole[other], samples, rows, beaten)
    return [replace(entry, **margins.get(entry.name, {})) for entry in entries]


def _mean(graph: Graph, metric: str, models: Models, index: NDArray[np.int64]) -> float:
    """The mean metric of the seeds over rows, of which some repeat."""
    return float(np.mean([model.metric(graph, metric, index) for model in models]))

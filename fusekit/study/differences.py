"""Paired differences between the models of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fusekit.graph.graph import Graph
from fusekit.study.comparison import Difference, Entry, best
from fusekit.study.statistics import Interval, draws, paired_t_interval, percentile_interval
from fusekit.train.evaluate import Gathered

Tested = Mapping[str, Sequence[Gathered | None]]


def with_differences(
    entries: Sequence[Entry],
    tested: Tested,
    graph: Graph,
    metric: str,
    better: str,
    *,
    resamples: int,
    baseline: str,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> list[Entry]:
    """The entries with their differences to the best single modality and to the baseline.

    Args:
      entries: of a comparison.
      tested: what each model says of the test rows, one a seed; None for a seed that failed.
      graph: any of theirs: they share the metric.
      metric: to compare by.
      better: whether higher or lower is.
      resamples: of the bootstrap; test rows are drawn, seeds are not.
      baseline: its name.
      groups: of the test rows, where these are drawn by group.
      seed: of the draws.
    """
    single = best([entry for entry in entries if entry.role == "single"], better)
    pairs = [(e.name, single.name) for e in entries if single and e.role != "single"]
    pairs += [(e.name, baseline) for e in entries if e.name != baseline]
    found = differences(pairs, tested, graph, metric, resamples=resamples, groups=groups, seed=seed)
    return [
        replace(
            entry,
            vs_single=None if single is None else found.get((entry.name, single.name)),
            vs_baseline=found.get((entry.name, baseline)),
        )
        if entry.role != "single"
        else replace(entry, vs_baseline=found.get((entry.name, baseline)))
        for entry in entries
    ]


def differences(
    pairs: Sequence[tuple[str, str]],
    tested: Tested,
    graph: Graph,
    metric: str,
    *,
    resamples: int,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], Difference]:
    """Of each pair, over the seeds in which both were trained and the rows that both answer."""
    measures: dict[tuple[str, bytes], tuple[Sequence[Gathered], NDArray[np.bool_]]] = {}
    plans = {}
    for ours, theirs in dict.fromkeys(pairs):
        alive = [
            k
            for k, (a, b) in enumerate(zip(tested[ours], tested[theirs], strict=True))
            if a is not None and b is not None
        ]
        if not alive:
            continue
        mine, other = ([g for k in alive if (g := tested[n][k])] for n in (ours, theirs))
        both = mine[0].columns[metric].rows & other[0].columns[metric].rows
        tag = both.tobytes() + bytes(alive)
        plans[ours, theirs] = (mine, other, both, (ours, tag), (theirs, tag))
        measures[ours, tag], measures[theirs, tag] = (mine, both), (other, both)
    if not plans:
        return {}
    where = {key: column for column, key in enumerate(measures)}
    rows = len(next(iter(measures.values()))[1])
    functions = [partial(_mean, graph, metric, *measure) for measure in measures.values()]
    replicates = draws(rows, functions, resamples=resamples, seed=seed, groups=groups)
    found = {}
    for pair, (mine, other, both, own, others) in plans.items():
        index = np.flatnonzero(both)
        a, b = ([g.metric(graph, metric, index) for g in each] for each in (mine, other))
        by_seed: Interval = paired_t_interval(a, b)
        columns = replicates[:, where[own]] - replicates[:, where[others]]
        samples = percentile_interval(by_seed.mean, columns)
        found[pair] = Difference(pair[1], by_seed, samples, int(both.sum()))
    return found


def _mean(
    graph: Graph,
    metric: str,
    models: Sequence[Gathered],
    both: NDArray[np.bool_],
    index: NDArray[np.int64],
) -> float:
    """The mean metric of the seeds over those rows of `index` that count."""
    kept = index[both[index]]
    return float(np.mean([model.metric(graph, metric, kept) for model in models]))

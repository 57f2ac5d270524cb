"""Evaluation: losses and metrics over a whole split, computed on the host in float64.

Losses are sums of rows over sums of weights, so the size of batches and rows that fill up the
last one do not matter. Metrics see every row at once: an area under a curve or a recall is that
of the split, not a mean over batches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fusekit.data.batch import Batch
from fusekit.errors import DataError, FusekitError
from fusekit.graph.graph import Graph
from fusekit.hosts.rows import whole
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.train.replicas import host

LOSS = "loss"
"""What the weighted sum of all losses is called."""

MASK = ".mask"
"""A role's mask is the column `<role>.mask`."""


@dataclass(frozen=True)
class Columns:
    """What one metric reads, over all rows that are no filling.

    Args:
      values: by role, `[rows, ...]`; floats in float64. A sequence's mask is `<role>.mask`.
      rows: `[rows]`, those in which everything that the metric reads is present.
    """

    values: dict[str, NDArray[Any]]
    rows: NDArray[np.bool_]

    def take(self, index: NDArray[Any]) -> "Columns":
        """Some rows, such as a bootstrap draw."""
        return Columns({role: v[index] for role, v in self.values.items()}, self.rows[index])


@dataclass(frozen=True)
class Gathered:
    """A split, evaluated by one replica.

    Args:
      losses: by name, the sum of the rows and the sum of their weights.
      columns: by metric.
      index: `[rows]`, numbers of the rows as `fusekit.data.Batch` has them, if it was given.
    """

    losses: dict[str, tuple[float, float]]
    columns: dict[str, Columns]
    index: NDArray[np.int64] | None = field(default=None, repr=False)

    def values(self, graph: Graph) -> dict[str, float]:
        """`loss`, each loss as `losses.<name>` and each metric by its name.

        A loss without a row that counts is 0 in the sum of losses, as in training, and NaN by
        itself; a metric without one is NaN.
        """
        if LOSS in graph.metrics:
            raise FusekitError(f"a metric cannot be called {LOSS!r}: the sum of losses is")
        each = {
            name: total / weight if weight > 0 else np.nan
            for name, (total, weight) in self.losses.items()
        }
        found = {LOSS: 0.0}
        for name, objective in graph.losses.items():
            share = float(getattr(objective.spec, "weight", 0.0))
            if self.losses[name][1] > 0:
                found[LOSS] += share * each[name]
        found |= {f"losses.{name}": float(value) for name, value in each.items()}
        return found | {name: self.metric(graph, name) for name in graph.metrics}

    def metric(self, graph: Graph, name: str, index: NDArray[Any] | None = None) -> float:
        """One metric, over all rows or over those of `index`, which may repeat rows."""
        columns = self.columns[name] if index is None else self.columns[name].take(index)
        if not columns.rows.any():
            return float("nan")
        spec: Any = graph.metrics[name].spec
        return float(spec.compute(columns.values, columns.rows))


class _Sum:
    """Gathers one replica's batches."""

    def __init__(self) -> None:
        self.losses: dict[str, list[float]] = {}
        self.columns: dict[str, dict[str, list[NDArray[Any]]]] = {}
        self.rows: dict[str, list[NDArray[np.bool_]]] = {}

    def add(self, found: Mapping[str, Any], valid: NDArray[np.bool_]) -> None:
        for name, (total, weight) in found["losses"].items():
            sums = self.losses.setdefault(name, [0.0, 0.0])
            sums[0] += float(total)
            sums[1] += float(weight)
        for name, read in found["metrics"].items():
            columns = self.columns.setdefault(name, {})
            masks = {role + MASK: mask for role, mask in read["masks"].items()}
            for role, values in {**read["columns"], **masks}.items():
                columns.setdefault(role, []).append(np.asarray(values)[valid])
            self.rows.setdefault(name, []).append(np.asarray(read["rows"], bool)[valid])

    def done(self, index: NDArray[np.int64] | None) -> Gathered:
        losses = {name: (total, weight) for name, (total, weight) in self.losses.items()}
        columns = {
            name: Columns(
                {role: _wide(np.concatenate(parts)) for role, parts in read.items()},
                np.concatenate(self.rows[name]),
            )
            for name, read in self.columns.items()
        }
        return Gathered(losses, columns, index)


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    """Floats, bfloat16 among them, as float64; all else as it is."""
    return values if values.dtype.kind in "biuOSU" else values.astype(np.float64)


def gather(program: Program, state: Any, batches: Iterable[Any]) -> Gathered | list[Gathered]:
    """Evaluates batches and keeps what the metrics read, row by row.

    Args:
      program: the program.
      state: its state.
      batches: of one pass over a split: `fusekit.data.Batch`, or mappings as `Program.evaluate`
        takes them.

    Returns:
      One `Gathered`; a list of them, one a replica, where there are replicas.

    Raises:
      DataError: there is no batch, or one does not fit.
    """
    many = program.replicas > 1
    sums = [_Sum() for _ in range(program.replicas)]
    index: list[NDArray[np.int64]] = []
    count = 0
    for count, batch in enumerate(batches, 1):  # noqa: B007 - counted for the check below
        streams = batch.streams if isinstance(batch, Batch) else batch
        found = jax.tree.map(host, program.evaluate(state, streams))
        valid = _valid(program.layout, streams, found)
        if isinstance(batch, Batch):
            index.append(whole(program.layout, batch.index)[valid])
        for k, each in enumerate(sums):
            each.add(jax.tree.map(lambda a, k=k: a[k], found) if many else found, valid)
    if not count:
        raise DataError("there is no batch to evaluate")
    numbers = np.concatenate(index) if index else None
    done = [each.done(numbers) for each in sums]
    return done if many else done[0]


def _valid(
    layout: Layout, streams: Mapping[str, Any], found: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Rows of a batch, over all hosts, that are no filling."""
    given = streams.get("valid")
    if given is None:
        sizes = [np.shape(read["rows"])[-1] for read in found["metrics"].values()]
        return np.ones(sizes[0] if sizes else 0, bool)
    return whole(layout, np.asarray(getattr(given, "values", given), bool))


def evaluate(program: Program, state: Any, batches: Iterable[Any]) -> Any:
    """Losses and metrics over batches: see `Gathered.values`.

    Returns:
      A dict; a list of dicts, one a replica, where there are replicas.
    """
    found = gather(program, state, batches)
    if isinstance(found, list):
        return [each.values(program.graph) for each in found]
    return found.values(program.graph)

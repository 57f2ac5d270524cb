"""Targets: what only losses and metrics read of a batch, and the same for shuffled rows."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fusekit.config.spec import Experiment
from fusekit.data.batch import Batch
from fusekit.data.pipeline import Pipeline
from fusekit.data.randomness import generator
from fusekit.graph.graph import Graph
from fusekit.graph.wiring import BATCH
from fusekit.stream import Stream

PREFIX = f"{BATCH}."
LEAVES = ("values", "mask", "presence")


def targets_of(graph: Graph) -> tuple[str, ...]:
    """The modalities that losses read and that no node reads."""
    inner = {r.key.node for n in graph.nodes.values() for w in n.wires.values() for r in w.reads}
    read = [
        r.key.node
        for objective in graph.losses.values()
        for wire in objective.wires.values()
        for r in wire.reads
    ]
    return tuple(
        name.removeprefix(PREFIX)
        for name in dict.fromkeys(read)
        if name.startswith(PREFIX) and name not in inner and graph.nodes[name].spec.of is None  # pyright: ignore
    )


class Targets:
    """Some modalities of all rows of a split, in memory.

    Args:
      experiment: whose data.
      split: train, validation or test.
      names: of modalities.

    Raises:
      DataError: the data cannot be read.
    """

    def __init__(self, experiment: Experiment, split: str, names: tuple[str, ...]):
        parts: dict[tuple[str, str], list[Any]] = {}
        index: list[NDArray[np.int64]] = []
        with closing(open_split(experiment, split, training=False)) as pipeline:
            for batch in pipeline:
                index.append(batch.index[batch.valid])
                for name in names:
                    for leaf in LEAVES:
                        array = getattr(batch.streams[name], leaf)
                        if array is not None:
                            parts.setdefault((name, leaf), []).append(array[batch.valid])
        self.names, self.index = names, np.concatenate(index)
        self.arrays = {key: np.concatenate(found) for key, found in parts.items()}

    def shuffled(self, seed: int) -> "Targets":
        """The same targets, each at another row: one permutation for all of them."""
        order = generator(seed, "study", "shuffled").permutation(len(self.index))
        other = object.__new__(Targets)
        other.names, other.index = self.names, self.index
        other.arrays = {key: array[order] for key, array in self.arrays.items()}
        return other

    def into(self, batch: Batch) -> Batch:
        """The batch with these targets in place of its own; rows that fill up keep theirs."""
        order = np.argsort(self.index)
        places = np.searchsorted(self.index, batch.index, sorter=order).clip(0, len(order) - 1)
        places, valid = order[places], batch.index >= 0
        streams: dict[str, Stream] = dict(batch.streams)
        for (name, leaf), array in self.arrays.items():
            own = np.asarray(getattr(streams[name], leaf))
            where = valid.reshape(-1, *(1,) * (own.ndim - 1))
            streams[name] = streams[name].with_(**{leaf: np.where(where, array[places], own)})
        return replace(batch, streams=streams)

    def column(self, name: str, axes: int = 1) -> NDArray[Any]:
        """Values of the rows that have the modality, or, with more axes, of the valid positions."""
        values = self.arrays[name, "values"]
        valid = np.ones(values.shape[:axes], bool)
        for leaf in LEAVES[1:]:
            mark = self.arrays.get((name, leaf))
            if mark is not None and mark.ndim <= axes:
                valid &= mark.reshape(mark.shape + (1,) * (axes - mark.ndim))
        return values[valid]


def open_split(experiment: Experiment, split: str, *, training: bool) -> Pipeline:
    """A split's pipeline. Raises `DataError`."""
    return Pipeline(
        experiment.data,
        experiment.readable,
        batch=experiment.train.batch,
        seed=experiment.train.seed,
        split=split,
        training=training,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )

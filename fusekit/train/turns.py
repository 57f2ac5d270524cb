"""Batches of several tasks: one task a step, or all of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fusekit.config.train import Task
from fusekit.data.batch import Batch
from fusekit.data.pipeline import Pipeline

GOLDEN = 0.6180339887498949


class Turn(NamedTuple):
    """What one step is given.

    Args:
      task: whose turn it is; `None` where all tasks are summed.
      batch: of the task, or batches by task.
    """

    task: str | None
    batch: Batch | dict[str, Batch]


class Turns:
    """Endless batches of training rows, each task from data of its own.

    With `alternate` step k is the task in whose share of [0, 1) the fraction of k times the golden
    ratio falls: every run of steps comes close to the shares, and step k depends on nothing else,
    so that a resumed run goes on with the same task.

    Args:
      tasks: as declared; `weight` is a task's share.
      pipelines: of training rows, by task.
      turns: `alternate` or `sum`.
    """

    def __init__(self, tasks: Mapping[str, Task], pipelines: Mapping[str, Pipeline], turns: str):
        self.tasks, self.pipelines, self.turns = tasks, pipelines, turns
        self._step = 0

    def __len__(self) -> int:
        """Steps of one epoch: in which the tasks together, or the longest, see their rows."""
        lengths = [len(pipeline) for pipeline in self.pipelines.values()]
        return max(lengths) if self.turns == "sum" else sum(lengths)

    def __iter__(self) -> Iterator[Turn]:
        return self

    def __next__(self) -> Turn:
        step, self._step = self._step, self._step + 1
        if self.turns == "sum":
            return Turn(None, {name: next(p) for name, p in self.pipelines.items()})
        task = self.task_of(step)
        return Turn(task, next(self.pipelines[task]))

    def task_of(self, step: int) -> str:
        """Whose turn step `step`, from 0, is."""
        names = list(self.tasks)
        ends = np.cumsum([task.weight for task in self.tasks.values()])
        at = (step + 0.5) * GOLDEN % 1.0 * ends[-1]
        return names[int(np.searchsorted(ends, at, side="right"))]

    def state(self) -> dict[str, Any]:
        """Where training stands."""
        return {"step": self._step, "tasks": {n: p.state() for n, p in self.pipelines.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. Raises `DataError` if it belongs to other data."""
        self._step = int(state["step"])
        for name, pipeline in self.pipelines.items():
            pipeline.restore(state["tasks"][name])

    def close(self) -> None:
        """Ends the threads that work ahead."""
        for pipeline in self.pipelines.values():
            pipeline.close()


Training = Pipeline | Turns


def given(batch: Any) -> tuple[str | None, Any]:
    """The task and the streams of what an iterator of batches gave."""
    if not isinstance(batch, Turn):
        return None, getattr(batch, "streams", batch)
    if isinstance(batch.batch, Batch):
        return batch.task, batch.batch.streams
    return batch.task, {name: one.streams for name, one in batch.batch.items()}


def changed(batch: Batch | Turn, change: Callable[[Batch], Batch]) -> Batch | Turn:
    """The same with another batch in the place of each."""
    if isinstance(batch, Batch):
        return change(batch)
    if isinstance(batch.batch, Batch):
        return batch._replace(batch=change(batch.batch))
    return batch._replace(batch={name: change(one) for name, one in batch.batch.items()})

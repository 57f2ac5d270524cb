"""Metrics of training steps, averaged over a few steps and written down."""

from collections import Counter
from typing import Any

import numpy as np

from fusekit.train.guard import Guard, Values
from fusekit.train.progress import Progress
from fusekit.train.run import Run

LINES = 500
"""About so many lines of metrics a run."""


class Record:
    """Checks, averages and writes the metrics of steps as they arrive.

    Args:
      steps: of the whole run.
      guard: looks at each step.
      run: where lines go, if anywhere.
      progress: what is seen.
    """

    def __init__(self, steps: int, guard: Guard, run: Run | None, progress: Progress):
        self.guard, self.run, self.progress = guard, run, progress
        self.every = max(1, steps // LINES)
        self.last = 0
        self._sums: Values = {}
        self._counts: Counter[str] = Counter()

    def add(self, step: int, values: Values) -> None:
        """The metrics of a step, `[replicas]` each. Raises `NonFiniteError`."""
        self.last = step
        for name, array in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + array
            self._counts[name] += 1
        self.guard.check(step, values)
        live = [k for k in range(len(values["loss"])) if k not in self.guard.dead]
        self.progress.step(
            step, {name: float(array[live].mean()) for name, array in values.items()}
        )
        if step % self.every == 0:
            self.flush()

    def flush(self) -> None:
        """Writes the mean since the line before, of each metric over the steps that had it."""
        if self._sums and self.run is not None:
            means = {name: array / self._counts[name] for name, array in self._sums.items()}
            self.run.log(self.last, "train", by_replica(means))
        self._sums, self._counts = {}, Counter()


def by_replica(values: Values) -> Any:
    """`[replicas]` arrays as one dict, or one a replica."""
    count = len(np.atleast_1d(next(iter(values.values()))))
    each = [{name: float(array[k]) for name, array in values.items()} for k in range(count)]
    return each if count > 1 else each[0]

"""The best state by `train.select`, for each replica by itself."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusekit.errors import CheckpointError
from fusekit.program import Program
from fusekit.train.checkpoint import DamagedWarning
from fusekit.train.replicas import joined, step_of
from fusekit.train.run import Run, Values, columns_of
from fusekit.train.state import TrainState


class Best:
    """Keeps the best state seen: in the run's folder, or in memory where there is no run.

    Args:
      program: whose states.
      metric: the name of a metric.
      run: where to keep them; what it holds already counts.
    """

    def __init__(self, program: Program, metric: str, run: Run | None):
        self.program, self.metric, self.run = program, metric, run
        spec: Any = program.graph.metrics[metric].spec
        self.sign = 1.0 if spec.better == "higher" else -1.0
        self.values: list[float | None] = [None] * program.replicas
        self.steps: list[int | None] = [None] * program.replicas
        self._kept: dict[int, TrainState] = {}
        if run is not None:
            for index in range(program.replicas):
                self._recall(run, index)

    def _recall(self, run: Run, index: int) -> None:
        kept = run.best(index, self.program.replicas)
        if not kept.steps():
            return
        try:
            step = kept.newest()
        except CheckpointError as error:
            warnings.warn(
                f"the best state so far is lost, and chosen anew from here on: {error}",
                DamagedWarning,
                stacklevel=2,
            )
            kept.set_aside_after(-1)
            return
        extra = kept.about(step)["extra"]
        if extra.get("metric") == self.metric:
            self.values[index], self.steps[index] = extra["value"], step

    def offer(self, state: Any, values: Values) -> None:
        """Keeps what is better than before; ties go to the earlier step."""
        for index, each in enumerate(columns_of(values)):
            value, before = float(each[self.metric]), self.values[index]
            if not np.isfinite(value):
                continue
            if before is None or self.sign * value > self.sign * before:
                self.values[index], self.steps[index] = value, step_of(state)
                self._keep(index, self.program.replica(state, index), value)

    def _keep(self, index: int, state: TrainState, value: float) -> None:
        if self.run is None:
            self._kept[index] = jax.tree.map(jnp.copy, state)
            return
        extra = {"metric": self.metric, "value": value}
        kept = self.run.best(index, self.program.replicas)
        kept.save_replica(self.program, state, extra=extra)

    def state(self, last: Any) -> Any:
        """The best state of each replica; its last where none was ever finite."""
        return joined(
            self.program,
            [
                self.program.replica(last, index) if step is None else self._state(index)
                for index, step in enumerate(self.steps)
            ],
        )

    def _state(self, index: int) -> TrainState:
        if self.run is None:
            return self._kept[index]
        return self.run.best(index, self.program.replicas).replica(self.program)

"""One strategy's share of a comparison: compiled once, tuned, trained for every seed."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import jax
import numpy as np

from fusekit.config.spec import Experiment
from fusekit.graph import resolve
from fusekit.study.feed import Feed
from fusekit.study.rated import RatedProgram
from fusekit.study.targets import Targets, open_split
from fusekit.train.evaluate import Gathered, gather
from fusekit.train.experiment import layout_of
from fusekit.train.guard import NonFiniteError
from fusekit.train.loop import fit, steps_of
from fusekit.train.replicas import joined
from fusekit.train.replicas import split as split_replicas
from fusekit.train.state import TrainState

WARM, TIMED = 3, 15
Swap = dict[str, Targets]
"""Targets in place of a split's own."""


@dataclass(frozen=True)
class Trained:
    """One seed's model.

    Args:
      validation: its score on the validation rows, by which its state was chosen.
      state: the chosen state; None if training failed.
      tested: what it says of the test rows, once it was asked.
    """

    validation: float
    state: TrainState | None = field(default=None, repr=False)
    tested: Gathered | None = field(default=None, repr=False)


FAILED = Trained(float("nan"))


class Trial:
    """A strategy, compiled once for all learning rates, seeds and labels.

    Args:
      experiment: the strategy; `train.select` is the metric to compare by.
      seeds: how many, from `train.seed` on. All see the same batches.
      tick: makes what is called at each step of so many models.
    """

    def __init__(
        self, experiment: Experiment, *, seeds: int, tick: Callable[[int], Callable[[], Any]]
    ):
        self.experiment, self.seeds, self.tick = experiment, seeds, tick
        self.graph = resolve(experiment)
        with self._feeds({}) as (training, _):
            self.steps = steps_of(experiment, training.pipeline)
        layout = layout_of(experiment)
        self.program = RatedProgram(self.graph, layout=layout, steps=self.steps, replicas=seeds)

    @property
    def together(self) -> bool:
        """Whether seeds only run side by side: an accelerator's program is of all of them."""
        return self.program.vmapped

    @contextmanager
    def _feeds(self, swap: Swap, tick: Any = lambda: None) -> Iterator[tuple[Feed, Feed]]:
        with (
            closing(open_split(self.experiment, "train", training=True)) as training,
            closing(open_split(self.experiment, "validation", training=False)) as validation,
        ):
            yield (
                Feed(training, targets=swap.get("train"), tick=tick),
                Feed(validation, targets=swap.get("validation")),
            )

    def run(self, factor: float, first: int, count: int, swap: Swap | None = None) -> list[Trained]:
        """Trains seeds `first` to `first + count`, counted from `train.seed`.

        Args:
          factor: times the declared learning rate.
          first: the first seed.
          count: how many; all, if they only run side by side.
          swap: targets in place of the data's own.
        """
        if count < 1:
            return []
        program, train = self.program, self.experiment.train
        program.replicas = count
        state = program.rated(program.init(train.seed + first), factor)
        with self._feeds(swap or {}, self.tick(count)) as (training, validation):
            try:
                fitted = fit(
                    program,
                    state,
                    training,  # pyright: ignore[reportArgumentType] - it does what a pipeline does
                    steps=self.steps,
                    validation=validation,
                    progress=False,
                )
            except NonFiniteError:
                return [FAILED] * count
        if fitted.stopped:
            raise KeyboardInterrupt
        states = split_replicas(program, fitted.best)
        return [
            FAILED if value is None or k in fitted.dead else Trained(value, state)
            for k, (value, state) in enumerate(zip(fitted.best_values, states, strict=True))
        ]

    def tested(self, trained: Sequence[Trained]) -> list[Trained]:
        """The same models, asked about the test rows."""
        program = self.program
        alive = [each.state for each in trained if each.state is not None]
        if not alive:
            return list(trained)
        with closing(open_split(self.experiment, "test", training=False)) as test:
            if self.together:
                states = [alive[0] if each.state is None else each.state for each in trained]
                found: Any = gather(program, joined(program, states), test)
                rows = found if isinstance(found, list) else [found]
            else:
                program.replicas = 1
                rows = [e.state and gather(program, e.state, test) for e in trained]
        return [
            each if each.state is None else replace(each, tested=row)
            for each, row in zip(trained, rows, strict=True)
        ]

    def tuned(
        self, factors: Sequence[float], tuning: int, sign: float
    ) -> tuple[float, dict[float, float], list[Trained]]:
        """The factor with the best mean validation score, all scores, and its models so far.

        Of equal scores the rate nearest to the declared one is taken.

        Args:
          factors: the grid.
          tuning: how many seeds are trained at each.
          sign: 1 if a higher score is better, -1 if a lower one is.
        """
        done = {factor: self.run(factor, 0, tuning) for factor in factors}
        scores = {
            factor: float(np.mean([one.validation for one in trained]))
            for factor, trained in done.items()
        }

        def rank(factor: float) -> tuple[float, float]:
            score = scores[factor]
            return (-np.inf if np.isnan(score) else sign * score, -abs(np.log(factor)))

        best = max(factors, key=rank)
        return best, scores, done[best]

    def step_seconds(self) -> float:
        """The median time of a step of one seed; compiled before."""
        program = self.program
        if not self.together:
            program.replicas = 1
        state: Any = program.init()
        with self._feeds({}) as (training, _):
            batch = program.batch(next(training).streams)
        times = []
        for _ in range(WARM + TIMED):
            began = time.perf_counter()
            state, metrics = program.compiled_step(state, batch)
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - began)
        return median(times[WARM:]) / (self.seeds if self.together else 1)

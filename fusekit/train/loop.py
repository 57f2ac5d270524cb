"""The loop: steps, evaluation, checkpoints; leaves cleanly, and stops where numbers end."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fusekit.config.spec import Experiment
from fusekit.config.train import EPOCHS, Train
from fusekit.data.batch import Batch
from fusekit.errors import FusekitError
from fusekit.program import Program
from fusekit.train.best import Best
from fusekit.train.evaluate import evaluate
from fusekit.train.guard import Guard, Window
from fusekit.train.progress import Progress
from fusekit.train.record import Record
from fusekit.train.replicas import step_of
from fusekit.train.run import Run, Values, columns_of
from fusekit.train.stop import Stop
from fusekit.train.turns import Training, given

OWED = "evaluation"
"""In a checkpoint: its state has yet to be evaluated."""


@dataclass(frozen=True)
class Fitted:
    """What `fit` came to.

    Args:
      state: after the last step.
      steps: done in all.
      best: the best state by `train.select`; None without it.
      best_steps: of the best state, one a replica.
      best_values: of the metric that selects, one a replica.
      validation: the last evaluation; None if there was none.
      stopped: the signal that ended training early; None if it was not.
      dead: replicas that met a number that is not finite, and at which step.
    """

    state: Any = field(repr=False)
    steps: int
    best: Any = field(default=None, repr=False)
    best_steps: tuple[int | None, ...] = ()
    best_values: tuple[float | None, ...] = ()
    validation: Values | None = None
    stopped: str | None = None
    dead: dict[int, int] = field(default_factory=dict)


def steps_of(experiment: Experiment, pipeline: Training) -> int:
    """How many steps an experiment trains for: `steps`, or `epochs` of the pipeline."""
    train = experiment.train
    if train.steps is not None:
        return train.steps
    epochs = EPOCHS if train.epochs is None else train.epochs
    return max(1, round(epochs * len(pipeline)))


def fit(
    program: Program,
    state: Any,
    pipeline: Training,
    *,
    steps: int,
    validation: Iterable[Batch] | None = None,
    run: Run | None = None,
    progress: bool = True,
) -> Fitted:
    """Trains from the step of `state` up to `steps`.

    Evaluates `validation` every `train.evaluate_every` steps (default: each epoch) and at the
    end; with a run, writes a checkpoint every `train.checkpoint_every` (default: each epoch) and
    at the end. On SIGTERM or Ctrl-C it writes a checkpoint and returns; an evaluation that was due
    then comes first when the run goes on.

    Args:
      program: the program.
      state: where to start; donated. Restored states go on, bit for bit, if the pipeline has been
        restored as well: see `resumed`.
      pipeline: endless batches of training rows.
      steps: the step after which training is done, counted from the very first.
      validation: one pass over the rows to validate on, each time it is iterated.
      run: where metrics and checkpoints go.
      progress: whether to show how it goes on standard error.

    Raises:
      NonFiniteError: a loss or gradient is not finite, in every replica that is left. The last
        checkpoint is from before.
      FusekitError: there is `train.select`, but nothing to validate on.
    """
    train = program.train
    epoch = len(pipeline)
    evaluate_every = train.evaluate_every or epoch
    checkpoint_every = train.checkpoint_every or epoch
    check_selection(train, validation)
    best = Best(program, train.select, run) if train.select else None
    start = step = step_of(state)
    guard, window = Guard(program), Window(program)
    measured: Values | None = None
    stopped: str | None = None
    batches = iter(pipeline)

    def measure(state: Any, step: int) -> Values:
        found: Values = evaluate(program, state, validation or ())
        _tell(found, step, run, shown)
        if best is not None:
            best.offer(state, found)
        return found

    with Progress(steps, start=start, show=progress) as shown, Stop() as stop:
        record = Record(steps, guard, run, shown)
        if start < steps:
            shown.say("compiling")
        try:
            if validation is not None and _owed(run, start):
                measured = measure(state, start)
            for step in range(start + 1, steps + 1):
                task, streams = given(next(batches))
                state, metrics = program.step(state, streams, task=task)
                for done in window.push(step, metrics):
                    record.add(*done)
                stopped = stop.after(step)
                last = step == steps
                measures = validation is not None and (step % evaluate_every == 0 or last)
                saves = run is not None and (step % checkpoint_every == 0 or last or bool(stopped))
                if measures or saves or last or stopped:
                    for done in window.drain():
                        record.add(*done)
                    guard.check_state(step, state)
                if measures and not stopped:
                    measured = measure(state, step)
                if saves and run is not None:
                    extra = {OWED: True} if measures and stopped else None
                    run.checkpoints.save(program, state, data=pipeline.state(), extra=extra)
                if stopped:
                    shown.say(f"{stopped}: leaving after step {step} of {steps}")
                    break
        finally:
            record.flush()
            if run is not None:
                run.wait()
    return Fitted(
        state,
        step,
        best=best.state(state) if best else None,
        best_steps=tuple(best.steps) if best else (),
        best_values=tuple(best.values) if best else (),
        validation=measured,
        stopped=stopped,
        dead=guard.dead,
    )


def check_selection(train: Train, validation: Any) -> None:
    """Raises `FusekitError` if there is `train.select`, but nothing to validate on."""
    if train.select is not None and validation is None:
        raise FusekitError(
            f"train.select: {train.select} is measured on validation rows, and there are none;"
            " declare some, such as split: {validation: 0.1} on a source"
        )


def _owed(run: Run | None, step: int) -> bool:
    """Whether the run was stopped at this step before the evaluation that was due."""
    if run is None or step not in run.checkpoints.steps():
        return False
    return bool(run.checkpoints.about(step)["extra"].get(OWED))


def _tell(values: Values, step: int, run: Run | None, shown: Progress) -> None:
    if run is not None:
        run.log(step, "validation", values)
    columns = columns_of(values)
    means = {name: sum(c[name] for c in columns) / len(columns) for name in columns[0]}
    shown.evaluated(step, "validation", means)


def resumed(program: Program, pipeline: Training, run: Run) -> Any:
    """The state of the run's newest good checkpoint, the pipeline put where it stood then.

    Damaged checkpoints that are newer are set aside, and metrics of later steps deleted. A run
    that has no checkpoint yet starts anew.

    Raises:
      CheckpointError: there are checkpoints, but none is good, or they do not fit.
      DataError: the data, the seed or the batch size are not what they were.
    """
    if not run.checkpoints.steps():
        run.rewind(0)
        return program.init()
    restored = run.checkpoints.restore(program)
    if restored.data is not None:
        pipeline.restore(restored.data)
    run.checkpoints.set_aside_after(restored.step)
    run.rewind(restored.step, evaluated=not restored.extra.get(OWED))
    return restored.state

"""From an experiment to a trained state and a folder that tells how it came about."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusekit.config.spec import Experiment
from fusekit.data.pipeline import Pipeline
from fusekit.errors import FusekitError
from fusekit.graph import resolve
from fusekit.layout import AXES, Layout
from fusekit.program import Program
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.evaluate import evaluate
from fusekit.train.loop import Fitted, check_selection, fit, resumed, steps_of
from fusekit.train.replicas import step_of
from fusekit.train.run import Run


@dataclass(frozen=True)
class Result:
    """What training came to.

    Args:
      state: the best state by `train.select`, or the last one without it.
      metrics: by split, of that state; lists, one a replica, where there are replicas.
      folder: of the run.
      steps: done in all.
      stopped: the signal that ended training early; None if it was not.
      fitted: more about it.
      program: to go on with.
    """

    state: Any = field(repr=False)
    metrics: dict[str, Any]
    folder: Path
    steps: int
    stopped: str | None
    fitted: Fitted = field(repr=False)
    program: Program = field(repr=False)


def train(
    experiment: Experiment,
    *,
    run_root: str | PathLike[str] = "runs",
    name: str | None = None,
    resume: str | PathLike[str] | None = None,
    start: str | PathLike[str] | None = None,
    replicas: int | None = None,
    progress: bool = True,
    pictures: Sequence[tuple[str, str]] = (),
) -> Result:
    """Opens the data, compiles, fits, evaluates on the test split and writes the run's folder.

    Args:
      experiment: what to train.
      run_root: where folders of runs lie.
      name: of the run; default `meta.name`.
      resume: the folder of a run to go on with.
      start: a folder of checkpoints whose parameters to start from.
      replicas: how many seeds to train side by side, from `train.seed` on; default one, or as
        many as the run has that is gone on with.
      progress: whether to show how it goes on standard error.
      pictures: for the report; see `fusekit.train.report.report`.

    Raises:
      ConfigError, DataError, LayoutError: the experiment is not possible.
      CheckpointError: a checkpoint cannot be read, trusted or written.
      NonFiniteError: training met a number that is not finite; the folder has the last checkpoint.
    """
    began = time.monotonic()
    graph = resolve(experiment)
    run = None if resume is None else Run.reopen(resume, experiment)
    count = _count(run, replicas)
    pipelines = open_splits(experiment)
    try:
        total = steps_of(experiment, pipelines["train"])
        program = Program(graph, layout=layout_of(experiment), steps=total, replicas=count)
        if run is None:
            run, restored = Run.create(experiment, root=run_root, name=name, replicas=count), None
        else:
            check_selection(program.train, pipelines.get("validation"))
            restored = resumed(program, pipelines["train"], run)
            run.take(experiment, count, step_of(restored))
        try:
            return _train(
                program, pipelines, run, total, restored, start, progress, pictures, began
            )
        finally:
            run.close()
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def _train(
    program: Program,
    pipelines: dict[str, Pipeline],
    run: Run,
    total: int,
    restored: Any,
    start: Any,
    progress: bool,
    pictures: Sequence[tuple[str, str]],
    began: float,
) -> Result:
    summary: dict[str, Any] = {
        "name": run.folder.parent.name,
        "status": "failed",
        "steps": 0,
        "seconds": 0.0,
        "metrics": {},
        "replicas": program.replicas,
        "parameters": parameters_by_node(program),
    }
    try:
        check_selection(program.train, pipelines.get("validation"))
        state = program.init() if restored is None else restored
        if restored is None and start is not None:
            state = Checkpoints(start).parameters_only(program, state)
        fitted = fit(
            program,
            state,
            pipelines["train"],
            steps=total,
            validation=pipelines.get("validation"),
            run=run,
            progress=progress,
        )
        summary |= {"steps": fitted.steps, "dead": fitted.dead}
        chosen = fitted.state if fitted.best is None else fitted.best
        metrics: dict[str, Any] = {}
        if fitted.stopped is None:
            metrics = _final(program, chosen, fitted, pipelines, run)
        if fitted.best_steps:
            summary["best"] = {
                "metric": program.train.select,
                "steps": fitted.best_steps,
                "values": fitted.best_values,
            }
        status = f"stopped ({fitted.stopped})" if fitted.stopped else "done"
        summary |= {"status": status, "metrics": metrics}
        return Result(chosen, metrics, run.folder, fitted.steps, fitted.stopped, fitted, program)
    except BaseException as error:
        summary |= {"status": f"failed ({type(error).__name__})", "error": str(error)}
        summary["steps"] = getattr(error, "step", summary["steps"])
        raise
    finally:
        summary["seconds"] = time.monotonic() - began
        run.finish(summary, pictures=pictures)


def _final(
    program: Program, state: Any, fitted: Fitted, pipelines: dict[str, Pipeline], run: Run
) -> dict[str, Any]:
    """Metrics of the state that is handed out."""
    metrics: dict[str, Any] = {}
    if "validation" in pipelines:
        same = fitted.best is None and fitted.validation is not None
        metrics["validation"] = (
            fitted.validation if same else evaluate(program, state, pipelines["validation"])
        )
    if "test" in pipelines:
        metrics["test"] = evaluate(program, state, pipelines["test"])
        run.log(_step(fitted), "test", metrics["test"])
    return metrics


def _step(fitted: Fitted) -> int:
    """The step of the state that is handed out; of several replicas the latest."""
    return max((step or fitted.steps for step in fitted.best_steps), default=fitted.steps)


def _count(run: Run | None, asked: int | None) -> int:
    """How many replicas to train. Raises `FusekitError` if the run has another number."""
    if run is None:
        return asked or 1
    count = run.replicas()
    if asked not in (None, count):
        raise FusekitError(f"{run.folder} trains {count} replicas, not {asked}")
    return count


def open_splits(experiment: Experiment) -> dict[str, Pipeline]:
    """The pipelines of the splits that there are; `train` is always tried. Raises `DataError`."""
    there = {"train"}
    for source in experiment.data.values():
        there.update(source.splits(experiment.modalities))
    return {
        split: Pipeline(
            experiment.data,
            experiment.modalities,
            batch=experiment.train.batch,
            seed=experiment.train.seed,
            split=split,
            training=split == "train",
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        for split in ("train", "validation", "test")
        if split in there
    }


def layout_of(experiment: Experiment) -> Layout:
    """The layout that the experiment's `mesh` declares. Raises `LayoutError`."""
    mesh = experiment.mesh
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    return Layout.of(sizes, params=mesh.params, activations=mesh.activations)


def parameters_by_node(program: Program) -> dict[str, int]:
    """How many parameters each node has; those of losses as `losses.<name>`."""
    counts: dict[str, int] = {}
    for path, array in jax.eval_shape(program.parameters, program.states.abstract).items():
        first, _, rest = path.partition(".")
        node = f"losses.{rest.partition('.')[0]}" if first == "losses" else first
        counts[node] = counts.get(node, 0) + int(np.prod(array.shape))
    return counts

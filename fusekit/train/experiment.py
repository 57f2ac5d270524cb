"""From an experiment to a trained state and a folder that tells how it came about."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusekit.asked import check_kernels
from fusekit.backends import Devices
from fusekit.config.spec import Experiment
from fusekit.config.stages import staged
from fusekit.errors import FusekitError
from fusekit.graph import resolve
from fusekit.hosts.rows import check_hosts
from fusekit.layout import AXES, Layout
from fusekit.program import Program
from fusekit.train.annotate import Files, annotate, annotated, joined, stored
from fusekit.train.beginning import Warmth, warmed
from fusekit.train.evaluate import evaluate
from fusekit.train.files import tame
from fusekit.train.loop import Fitted, check_selection, fit, resumed, steps_of
from fusekit.train.replicas import step_of
from fusekit.train.run import Run
from fusekit.train.splits import open_splits


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
    progress = progress and jax.process_index() == 0
    if experiment.stages:
        return _staged(experiment, run_root, name, resume, start, replicas, progress, pictures)
    run = None if resume is None else Run.reopen(resume, experiment)
    count = _count(run, replicas)
    if run is None:
        _check_devices(experiment, [experiment])
        run = Run.create(experiment, root=run_root, name=name, replicas=count)
        resume = None
    warmth = None if start is None else Warmth(folder=Path(start))
    return _one(experiment, run, count, resume is not None, warmth, progress, pictures)


def _check_devices(experiment: Experiment, stages: Iterable[Experiment]) -> None:
    """Whether the mesh fits the devices and these run what it asks for: what is refused leaves no
    folder. Raises `LayoutError` and `ConfigError`."""
    layout = layout_of(experiment)
    check_kernels(map(resolve, stages), places=[Devices.of(layout)])


def _staged(
    experiment: Experiment,
    run_root: str | PathLike[str],
    name: str | None,
    resume: str | PathLike[str] | None,
    start: str | PathLike[str] | None,
    replicas: int | None,
    progress: bool,
    pictures: Sequence[tuple[str, str]],
) -> Result:
    """Trains stage after stage, each in a folder of its own; what is done is not done again."""
    began = time.monotonic()
    root = None if resume is None else Run.reopen(resume, experiment)
    count = _count(root, replicas)
    if root is None:
        _check_devices(experiment, staged(experiment).values())
        root = Run.create(experiment, root=run_root, name=name, replicas=count)
    summary: dict[str, Any] = {
        "name": root.name,
        "status": "failed",
        "steps": 0,
        "metrics": {},
        "replicas": count,
        "stages": {},
    }
    done: dict[str, Path] = {}
    files: Files = {}
    result: Result | None = None
    try:
        for stage, declared in staged(experiment).items():
            one = annotated(declared, files)
            run = root.stage(stage, _alone(one), count)
            warmth = Warmth(stages=dict(done))
            if not done and start is not None:
                warmth = Warmth(folder=Path(start))
            told = run.summary()
            if told.get("status") == "done" and stage != list(experiment.stages)[-1]:
                summary["stages"][stage] = {k: told[k] for k in ("steps", "metrics")}
            else:
                if progress:
                    number = list(experiment.stages).index(stage) + 1
                    print(f"stage {stage} ({number} of {len(experiment.stages)})", file=sys.stderr)
                went_on = bool(run.checkpoints.steps())
                result = _one(one, run, count, went_on, warmth, progress, pictures)
                summary["stages"][stage] = {"steps": result.steps, "metrics": result.metrics}
                summary |= {"steps": result.steps, "metrics": result.metrics}
                if result.stopped is not None:
                    break
            if one.train.write:
                files = joined(files, stored(run.folder, one))
            else:
                done[stage] = run.folder
        assert result is not None
        summary["status"] = f"stopped ({result.stopped})" if result.stopped else "done"
        return replace(result, folder=root.folder)
    except BaseException as error:
        summary |= {"status": f"failed ({type(error).__name__})", "error": str(error)}
        raise
    finally:
        summary["seconds"] = time.monotonic() - began
        root.finish(summary, pictures=pictures)
        root.close()


def _alone(experiment: Experiment) -> Experiment:
    """A stage as its folder describes it: it names no other stage."""
    train = experiment.train.model_copy(update={"start": None})
    return experiment.model_copy(update={"train": train})


def _one(
    experiment: Experiment,
    run: Run,
    count: int,
    resume: bool,
    warmth: Warmth | None,
    progress: bool,
    pictures: Sequence[tuple[str, str]],
) -> Result:
    """One stage, in the folder of its run."""
    if experiment.train.write:
        return _annotated(experiment, run, count, warmth, progress, pictures)
    began = time.monotonic()
    graph = resolve(experiment)
    layout = layout_of(experiment)
    pipelines = open_splits(experiment, layout)
    try:
        total = steps_of(experiment, pipelines["train"])
        program = Program(graph, layout=layout, steps=total, replicas=count)
        restored = None
        if resume:
            check_selection(program.train, pipelines.get("validation"))
            restored = resumed(program, pipelines["train"], run)
            run.take(_alone(experiment), count, step_of(restored))
        try:
            return _train(
                program, pipelines, run, total, restored, warmth, progress, pictures, began
            )
        finally:
            run.close()
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def _annotated(
    experiment: Experiment,
    run: Run,
    count: int,
    warmth: Warmth | None,
    progress: bool,
    pictures: Sequence[tuple[str, str]],
) -> Result:
    """A stage that stores outputs."""
    began = time.monotonic()
    summary: dict[str, Any] = {"name": run.name, "status": "failed", "steps": 0, "metrics": {}}
    summary["replicas"] = count
    try:
        program = Program(resolve(experiment), layout=layout_of(experiment), replicas=count)
        state = warmed(program, program.init(), warmth, run, progress)
        files = annotate(program, state, run.folder, progress=progress)
        summary |= {"status": "done", "annotations": tame(files)}
        return Result(state, {}, run.folder, 0, None, Fitted(state, 0), program)
    except BaseException as error:
        summary |= {"status": f"failed ({type(error).__name__})", "error": str(error)}
        raise
    finally:
        summary["seconds"] = time.monotonic() - began
        run.finish(summary, pictures=pictures)


def _train(
    program: Program,
    pipelines: dict[str, Any],
    run: Run,
    total: int,
    restored: Any,
    warmth: Warmth | None,
    progress: bool,
    pictures: Sequence[tuple[str, str]],
    began: float,
) -> Result:
    summary: dict[str, Any] = {
        "name": run.name,
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
        if restored is None:
            state = warmed(program, state, warmth, run, progress)
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
        summary["kernels"] = [choice.plain() for choice in program.choices]
        run.finish(summary, pictures=pictures)


def _final(
    program: Program, state: Any, fitted: Fitted, pipelines: dict[str, Any], run: Run
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


def layout_of(experiment: Experiment) -> Layout:
    """The layout that the experiment's `mesh` declares. Raises `LayoutError`."""
    mesh = experiment.mesh
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    layout = Layout.of(sizes, slices=mesh.slices, **mesh.rules())
    check_hosts(layout)
    return layout


def parameters_by_node(program: Program) -> dict[str, int]:
    """How many parameters each node has; those of losses as `losses.<name>`."""
    counts: dict[str, int] = {}
    for path, array in jax.eval_shape(program.parameters, program.states.abstract).items():
        first, _, rest = path.partition(".")
        node = f"losses.{rest.partition('.')[0]}" if first == "losses" else first
        counts[node] = counts.get(node, 0) + int(np.prod(array.shape))
    return counts

"""Runs and configs, opened for evaluation and prediction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusekit.cli.options import UsageError, resolved

if TYPE_CHECKING:
    from fusekit.component import ModalitySpec, SourceSpec
    from fusekit.config import Experiment
    from fusekit.data.pipeline import Pipeline
    from fusekit.layout import Layout
    from fusekit.program import Program

STATES = ("best", "last")


@dataclass(frozen=True)
class Opened:
    """A program with a state.

    Args:
      experiment: what it was made from.
      step: of the state; `None` where it is fresh.
      replicas: how many the run has; the state is that of one.
    """

    experiment: "Experiment"
    program: "Program"
    state: Any
    step: int | None
    replicas: int = 1


def open_run(
    folder: Path, sets: list[str] | None, *, replica: int = 0, which: str = "best"
) -> Opened:
    """A run's program and state.

    Raises:
      UsageError: it is no run folder, or has no such replica.
      CheckpointError: its checkpoint cannot be read.
    """
    if which not in STATES:
        raise UsageError(f"--state is one of {', '.join(STATES)}, not {which}")
    folder = last_stage(folder)
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder} is no run folder: it has no config.yaml")
    opened = open_config(str(config), sets, fresh=False)
    from fusekit.train.checkpoint import Checkpoints
    from fusekit.train.run import Run

    count = Run(folder).replicas()
    if not 0 <= replica < count:
        raise UsageError(f"replica {replica} does not exist: the run has {count}")
    best = Checkpoints(folder / ("best" if count == 1 else f"best_{replica}"), wait=True)
    if which == "best" and best.steps():
        state = best.replica(opened.program)
    else:
        latest = Checkpoints(folder / "checkpoints", wait=True)
        state = latest.restore(opened.program, replica=replica).state
    return replace(opened, state=state, step=int(state.step), replicas=count)


def last_stage(folder: Path) -> Path:
    """Of a run with stages the folder of the last that has a state; another folder itself."""
    stages = folder / "stages"
    begun = [f for f in stages.glob("*") if (f / "checkpoints").is_dir() or (f / "best").is_dir()]
    if not begun:
        return folder
    return max(begun, key=lambda f: (f / "environment.json").stat().st_mtime)


def open_config(config: str, sets: list[str] | None, *, fresh: bool = True) -> Opened:
    """A config's program; if `fresh`, with parameters as they are before training."""
    loaded, graph = resolved(config, sets)
    from fusekit.program import Program
    from fusekit.train.experiment import layout_of

    program = Program(graph, layout=layout_of(loaded.experiment))
    return Opened(loaded.experiment, program, program.init() if fresh else None, None)


@contextmanager
def batches(
    sources: "Mapping[str, SourceSpec]",
    modalities: "Mapping[str, ModalitySpec]",
    experiment: "Experiment",
    split: str,
    layout: "Layout | None" = None,
) -> "Iterator[Pipeline]":
    """One pass over a split; of several hosts each reads what the layout puts there.

    Raises `DataError`.
    """
    from fusekit.data.pipeline import Pipeline
    from fusekit.hosts.rows import share

    train = experiment.train
    pipeline = Pipeline(
        sources,
        modalities,
        batch=train.batch,
        seed=train.seed,
        split=split,
        training=False,
        share=None if layout is None else share(layout, train.batch),
    )
    try:
        yield pipeline
    finally:
        pipeline.close()

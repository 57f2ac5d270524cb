"""An annotate stage: outputs of all rows, stored as data for later stages."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusekit.config.frozen import FrozenDict
from fusekit.config.spec import Experiment
from fusekit.data.annotations import Annotations
from fusekit.data.pipeline import Pipeline
from fusekit.errors import FusekitError
from fusekit.graph.written import VALUE
from fusekit.hosts.rows import agreed, share
from fusekit.program import Program
from fusekit.stream import Signature
from fusekit.train.evaluate import MASK, Columns, Gathered, gather
from fusekit.train.progress import counted

FOLDER = "annotations"
Files = dict[str, dict[str, Path]]
"""By source and modality."""


def annotate(program: Program, state: Any, folder: Path, *, progress: bool = True) -> Files:
    """Stores what the stage of a program writes, of every row of every source of its `data`. Of
    several hosts each computes its share, and the first writes.

    Args:
      program: whose graph is that of the stage.
      state: whose outputs.
      folder: of the stage's run; the files are `annotations/<source>/<modality>.npz` in it.
      progress: whether to show how it goes on standard error.

    Raises:
      DataError: the data cannot be read.
      FusekitError: there are several replicas.
    """
    if program.replicas > 1:
        raise FusekitError("an annotate stage runs with one replica")
    experiment = program.graph.experiment
    files: Files = {}
    for source in _sources(experiment):
        parts: list[Gathered] = []
        for split in experiment.data[source].splits(experiment.readable):
            with closing(_pipeline(program, source, split)) as pipeline:
                rows = counted(pipeline, f"annotating {source}, {split}", show=progress)
                found = gather(program, state, rows)
            assert isinstance(found, Gathered)
            parts.append(found)
        for name in program.graph.metrics:
            path = folder / FOLDER / source / f"{name}.npz"
            if jax.process_index() == 0:
                _joined(experiment, name, parts).write(path)
            files.setdefault(source, {})[name] = path
    agreed(0)  # no host reads before the first has written
    return files


def annotated(experiment: Experiment, files: Mapping[str, Mapping[str, Path]]) -> Experiment:
    """The experiment with sources that have what was stored."""
    data = {
        name: spec.model_copy(
            update={"annotations": FrozenDict({**spec.annotations, **files.get(name, {})})}
        )
        for name, spec in experiment.data.items()
    }
    return experiment.model_copy(update={"data": FrozenDict(data)})


def joined(files: Files, more: Files) -> Files:
    """All of both."""
    names = dict.fromkeys([*files, *more])
    return {name: {**files.get(name, {}), **more.get(name, {})} for name in names}


def stored(folder: Path, experiment: Experiment) -> Files:
    """What is stored already in the folder of a stage; nothing unless it is all there."""
    names = [target.partition(".")[2] for target in experiment.train.write]
    files = {
        source: {name: folder / FOLDER / source / f"{name}.npz" for name in names}
        for source in _sources(experiment)
    }
    whole = all(path.is_file() for one in files.values() for path in one.values())
    return files if whole else {}


def _sources(experiment: Experiment) -> Iterable[str]:
    """Names of the sources that a stage reads."""
    return experiment.train.data or experiment.data


def _pipeline(program: Program, source: str, split: str) -> Pipeline:
    experiment = program.graph.experiment
    train = experiment.train
    return Pipeline(
        {source: experiment.data[source]},
        experiment.readable,
        batch=train.batch,
        seed=train.seed,
        split=split,
        training=False,
        share=share(program.layout, train.batch),
    )


def _joined(experiment: Experiment, name: str, parts: list[Gathered]) -> Annotations:
    """One modality of all splits of a source; rows in which it is absent are left out."""
    columns: list[Columns] = [part.columns[name] for part in parts]
    rows = np.concatenate([c.rows for c in columns])
    index = np.concatenate([np.asarray(part.index) for part in parts])
    values = np.concatenate([c.values[VALUE] for c in columns])
    masks = [c.values[VALUE + MASK] for c in columns if VALUE + MASK in c.values]
    due = experiment.modalities[name].signature()
    assert isinstance(due, Signature)
    if due.dtype == "int" and values.dtype.kind == "f":
        values = values.argmax(axis=-1)
    kinds = {"float": np.float32, "int": np.int32, "bool": np.bool_}
    mask = np.concatenate(masks)[rows] if masks else None
    return Annotations(index[rows], values[rows].astype(kinds[due.dtype]), mask)

"""The data of an experiment, split by split, as its stage mixes them."""

from collections.abc import Mapping
from typing import Any

from fusekit.component import SourceSpec
from fusekit.config.spec import Experiment
from fusekit.data.pipeline import Pipeline
from fusekit.hosts.rows import share
from fusekit.layout import Layout
from fusekit.microbatches import check_rows
from fusekit.train.turns import Turns


def open_splits(experiment: Experiment, layout: Layout | None = None) -> dict[str, Any]:
    """The pipelines of the splits that there are; `train` is always tried, and is of tasks where
    there are some. Of several hosts each reads the rows that the layout puts there.

    Raises `DataError`, and `LayoutError` if the batch does not divide over the mesh, or
    into microbatches over it.
    """
    train = experiment.train
    if layout is not None:
        check_rows(train.batch, experiment.mesh.microbatches, layout.rows())
    sources = _mixed(experiment, train.data)
    for task in train.tasks.values():
        sources |= _mixed(experiment, task.data)
    there = {"train"}
    for source in sources.values():
        there.update(source.splits(experiment.readable))

    def pipeline(sources: Mapping[str, SourceSpec], split: str) -> Pipeline:
        return Pipeline(
            sources,
            experiment.readable,
            batch=train.batch,
            seed=train.seed,
            split=split,
            training=split == "train",
            share=None if layout is None else share(layout, train.batch),
        )

    found: dict[str, Any] = {
        split: pipeline(sources, split)
        for split in ("train", "validation", "test")
        if split in there and not (split == "train" and train.tasks)
    }
    if train.tasks:
        own = {n: pipeline(_mixed(experiment, t.data), "train") for n, t in train.tasks.items()}
        found["train"] = Turns(train.tasks, own, train.turns)
    return found


def _mixed(experiment: Experiment, mixture: Mapping[str, float] | None) -> dict[str, SourceSpec]:
    """The sources of a mixture with its weights; all, as declared, where none is given."""
    if mixture is None:
        return dict(experiment.data)
    several = len(mixture) > 1
    return {
        name: experiment.data[name].model_copy(update={"weight": weight if several else None})
        for name, weight in mixture.items()
    }

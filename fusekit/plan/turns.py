"""Which step is planned where a stage has tasks: that of one of them, or of their sum."""

from typing import Any

from fusekit.batch import blank
from fusekit.config.train import Train
from fusekit.errors import FusekitError
from fusekit.model import FusionModel
from fusekit.objective import read_by


def check_task(train: Train, task: str | None) -> None:
    """Raises `FusekitError` if tasks alternate and none is given, or another than there is."""
    due = list(train.tasks) if train.turns == "alternate" else []
    if task is None and due:
        raise FusekitError(f"tasks that alternate are planned one by one: {', '.join(due)}")
    if task is not None and not due:
        raise FusekitError(f"no task that alternates is called {task}: there is one step")
    if task is not None and task not in due:
        raise FusekitError(f"no task is called {task}: {', '.join(due)}")


def rows_of(model: FusionModel, size: int, task: str | None) -> Any:
    """The shapes of what a step is given; of tasks that are summed, by task."""
    losses, tasks = model.graph.losses, model.graph.experiment.train.tasks
    if not tasks:
        return blank(model, size)
    each = {name: blank(model, size, read_by(losses, one.losses)) for name, one in tasks.items()}
    return each if task is None else each[task]

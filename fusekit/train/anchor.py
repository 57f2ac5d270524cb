"""Paths of data, written so that a run can be opened from anywhere."""

from pathlib import Path
from typing import Any

from fusekit.component import SourceSpec
from fusekit.config.frozen import FrozenDict
from fusekit.config.spec import Experiment


def anchored(experiment: Experiment, folder: Path | None = None) -> Experiment:
    """The experiment with relative paths of its sources made absolute.

    A path in a config is relative to the folder in which a command is run. `config.yaml` of a run
    must mean the same files wherever it is read.

    Args:
      experiment: it stays as it is.
      folder: what the paths are relative to; default the working directory.
    """
    where = Path.cwd() if folder is None else folder
    data = {}
    for name, source in experiment.data.items():
        stored = {m: f if _rooted(f) else where / f for m, f in source.annotations.items()}
        placed = _placed(source, where)
        data[name] = placed.model_copy(update={"annotations": FrozenDict(stored)})
    return experiment.model_copy(update={"data": data})


def _placed(source: SourceSpec, folder: Path) -> SourceSpec:
    """Every field that is a path; a source that says paths otherwise has a method `anchored`."""
    own: Any = getattr(source, "anchored", None)
    if own is not None:
        return own(folder)
    changes = {
        name: folder / value
        for name in type(source).model_fields
        if isinstance(value := getattr(source, name), Path) and not _rooted(value)
    }
    return source.model_copy(update=changes) if changes else source


def _rooted(path: Path) -> bool:
    return path.is_absolute() or path.parts[:1] == ("~",)

"""An index file, read as a declared source would be: same columns, transforms and scales."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PrivateAttr

from fusekit.cli.options import UsageError
from fusekit.component import ModalitySpec, SourceSpec
from fusekit.config.registry import components
from fusekit.data.rows import Rows, View

KEPT = ("files", "vectors", "records", "ids")
"""Fields of a source of tables that tell how columns are read."""


class IndexSpec(SourceSpec):
    """All rows of an index; what the training rows say (scales) comes from another source."""

    type: Literal["index"] = "index"
    _index: SourceSpec = PrivateAttr()
    _like: SourceSpec | None = PrivateAttr(None)
    _files: set[str] = PrivateAttr(default_factory=set)

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        """The rows with the columns that are read; the file may lack what others are made of."""
        read = {self.provides.get(name, name) for name in modalities}
        made = {f: _those(getattr(self._index, f), read) for f in ("vectors", "records")}
        parts = {part for columns in made["records"].values() for part in columns}
        files = [f for f in getattr(self._index, "files") if f in read | parts | self._files]  # noqa: B009
        return self._index.model_copy(update={**made, "files": tuple(files)}).rows(modalities)

    def open(self, split: str, modalities: Mapping[str, ModalitySpec] | None = None) -> View:
        """All rows, whatever the split, save `train`: those are the other source's."""
        if split == "train" and self._like is not None:
            return self._like.open(split, modalities)
        rows = self.rows(modalities or {})
        return View(rows, np.arange(len(rows)))


def follow(
    index: Path,
    sources: Mapping[str, SourceSpec],
    name: str | None,
    files: list[str] | None,
    ids: str | None = None,
    needed: Collection[str] | None = None,
) -> IndexSpec:
    """A source for the rows of an index file.

    Args:
      index: the file.
      sources: those declared.
      name: of the one whose `provides`, `transforms` and `standardise` hold; default the only one.
      files: columns that hold paths; default as that source says.
      ids: the column of row names; default as that source says.
      needed: the modalities that are read; default all.

    Raises:
      UsageError: there is no file, no such source, or no component that reads tables.
    """
    if not index.is_file():
        raise UsageError(f"there is no file {index}")
    table: Any = components("source").get("table")
    if table is None:
        raise UsageError("no source of type table is installed: it is what reads an index")
    like = _chosen(sources, name)
    fields: dict[str, Any] = {"path": index}
    if isinstance(like, table):
        fields |= {field: getattr(like, field) for field in KEPT}
    if files is not None:
        fields["files"] = tuple(files)
    if ids is not None:
        fields["ids"] = ids
    made = IndexSpec(**({} if like is None else _same(like, needed)))
    made._index, made._like, made._files = table(**fields), like, set(files or ())
    return made


def _same(like: SourceSpec, needed: Collection[str] | None) -> dict[str, Any]:
    """What holds for the rows as for those of the source; labels need not be there."""
    transforms = {key: t for key, t in like.transforms.items() if t.when == "always"}
    scaled = [name for name in like.standardise if needed is None or name in needed]
    return {"provides": like.provides, "transforms": transforms, "standardise": tuple(scaled)}


def _those(made: Mapping[str, Any], read: set[str]) -> dict[str, Any]:
    return {name: columns for name, columns in made.items() if name in read}


def _chosen(sources: Mapping[str, SourceSpec], name: str | None) -> SourceSpec | None:
    if name is not None:
        if name not in sources:
            known = ", ".join(sources) or "none"
            raise UsageError(f"no source is called {name}: {known}")
        return sources[name]
    if len(sources) > 1:
        raise UsageError(f"--source says which of {', '.join(sources)} the rows are like")
    return next(iter(sources.values()), None)

"""An index file, read as a declared source would be: same columns, transforms and scales."""

from collections.abc import Mapping
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

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        return self._index.rows(modalities)

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
) -> IndexSpec:
    """A source for the rows of an index file.

    Args:
      index: the file.
      sources: those declared.
      name: of the one whose `provides`, `transforms` and `standardise` hold; default the only one.
      files: columns that hold paths; default as that source says.

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
    same = {f: getattr(like, f) for f in ("provides", "transforms", "standardise")} if like else {}
    made = IndexSpec(**same)
    made._index, made._like = table(**fields), like
    return made


def _chosen(sources: Mapping[str, SourceSpec], name: str | None) -> SourceSpec | None:
    if name is not None:
        if name not in sources:
            known = ", ".join(sources) or "none"
            raise UsageError(f"no source is called {name}: {known}")
        return sources[name]
    if len(sources) > 1:
        raise UsageError(f"--source says which of {', '.join(sources)} the rows are like")
    return next(iter(sources.values()), None)

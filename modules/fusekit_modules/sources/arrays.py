from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import ArrayRows, Rows
from fusekit.errors import DataError, nearest
from fusekit_modules.sources.archive import Arrays, read_archive


@register
class ArraysSpec(SourceSpec):
    """Columns of equal length in a NumPy archive (.npz).

    Arrays with another first axis than the most common one (names of classes, scales) are left
    out, as are the arrays that `given`, `ids` and `present` use.
    """

    type: Literal["arrays"] = "arrays"
    path: Path = Field(description="the .npz file")
    given: str | None = Field(None, description="array of split names, for split: as_given")
    ids: str | None = Field(None, description="array of row names")
    present: dict[str, str] = Field(
        default_factory=dict, description="boolean array that tells which rows have a column"
    )

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        arrays = read_archive(self.path.expanduser())
        used = {name for name in (self.given, self.ids, *self.present.values()) if name}
        lengths = [len(a) for a in arrays.values() if a.ndim]
        if not lengths:
            raise DataError(f"{self.path} holds no columns")
        count = max(set(lengths), key=lengths.count)
        columns = {
            name: array
            for name, array in arrays.items()
            if name not in used and array.ndim and len(array) == count
        }
        return ArrayRows(
            columns,
            given=self._array(arrays, self.given, count),
            present={
                column: self._array(arrays, name, count).astype(bool)
                for column, name in self.present.items()
            },
            ids=self._array(arrays, self.ids, count),
        )

    def _array(self, arrays: Arrays, name: str | None, count: int) -> Any:
        if name is None:
            return None
        if name not in arrays or len(arrays[name]) != count:
            close = nearest(name, arrays)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise DataError(f"{self.path} has no array {name!r} of {count} rows{hint}")
        return arrays[name]

"""Random access to raw rows: what a source opens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.errors import DataError, nearest


class Rows:
    """All rows of a source, or of one of its splits. Subclasses give `__len__`, `__getitem__`.

    A row is a mapping from columns to raw values; a missing column or None is an absence. Rows
    are read from several threads at once.
    """

    names: tuple[str, ...] = ()
    """The columns, where they are known without reading a row."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[row] for row in range(len(self)))

    def columns(self) -> Mapping[str, NDArray[Any]] | None:
        """Every column as one array `[n, ...]`, if they are in memory: spares reading by row."""
        return None

    def present(self) -> Mapping[str, NDArray[np.bool_]]:
        """For sources with `columns`: where a column that is not always there is there."""
        return {}

    def given(self) -> NDArray[Any] | None:
        """The name of the split that the data give each row, `[n]`."""
        return None

    def repeats(self) -> NDArray[np.int64] | None:
        """The training rows of each repeat of a protocol that belongs to the data, `[r, k]`."""
        return None

    def ids(self, rows: NDArray[np.int64]) -> list[str] | None:
        """Names of rows, where rows have names."""
        return None

    def values(self, name: str) -> Iterable[Any] | None:
        """The values of a column, if they are known without reading a row; else None."""
        return (self.columns() or {}).get(name)

    def column(self, name: str) -> NDArray[Any]:
        """One whole column of numbers or strings. Raises `DataError` for one that is not there."""
        whole = self.columns()
        if whole is not None and name in whole:
            return np.asarray(whole[name])
        if whole is not None or (self.names and name not in self.names):
            names = self.names or tuple(whole or ())
            close = nearest(name, names)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise DataError(f"there is no column {name!r} among {', '.join(names)}{hint}")
        values = [row.get(name) for row in self]
        if any(value is None for value in values):
            at = next(i for i, value in enumerate(values) if value is None)
            raise DataError(f"column {name!r} is absent in row {at}, and all rows need it here")
        return np.asarray([v.decode() if isinstance(v, bytes) else v for v in values])


class ArrayRows(Rows):
    """Rows held in arrays of equal length.

    Args:
      arrays: columns, each `[n, ...]`.
      given: the split of each row, if the data say.
      present: for columns that some rows lack, where they are there.
      ids: names of the rows.
      repeats: `[r, k]`, the training rows of each repeat, if the data say.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        *,
        given: NDArray[Any] | None = None,
        present: Mapping[str, NDArray[np.bool_]] | None = None,
        ids: Sequence[str] | None = None,
        repeats: NDArray[np.int64] | None = None,
    ):
        self._arrays, self._given, self._present = dict(arrays), given, dict(present or {})
        self._ids, self._repeats = ids, repeats
        self.names = tuple(arrays)
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise DataError(f"columns differ in length: {sizes or 'there is none'}")
        self._count = next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return {
            name: array[row] if name not in self._present or self._present[name][row] else None
            for name, array in self._arrays.items()
        }

    def columns(self) -> Mapping[str, NDArray[Any]]:
        return self._arrays

    def present(self) -> Mapping[str, NDArray[np.bool_]]:
        return self._present

    def given(self) -> NDArray[Any] | None:
        return self._given

    def repeats(self) -> NDArray[np.int64] | None:
        return self._repeats

    def ids(self, rows: NDArray[np.int64]) -> list[str] | None:
        return None if self._ids is None else [str(self._ids[row]) for row in rows]


class JoinedRows(Rows):
    """Sequences of rows one after the other, each a split that the data give.

    Args:
      parts: by split, anything with `len` and `[]`; one part without a name is no split.
      names: the columns, where known.
    """

    def __init__(self, parts: Mapping[str, Any], *, names: tuple[str, ...] = ()):
        self._parts, self.names = dict(parts), names
        self._ends = np.cumsum([len(part) for part in parts.values()])
        self._list = list(parts.values())

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        at = int(np.searchsorted(self._ends, row, side="right"))
        return self._list[at][row - (int(self._ends[at - 1]) if at else 0)]

    def given(self) -> NDArray[Any] | None:
        names = list(self._parts)
        if names == [""]:
            return None
        return np.repeat(np.asarray(names), [len(part) for part in self._list])


class View(Rows):
    """Some rows of a source; `index [n]` holds their numbers in the whole."""

    def __init__(self, whole: Rows, index: NDArray[np.int64]):
        self.whole, self.index = whole, np.asarray(index, np.int64)
        self.names = whole.names

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return self.whole[int(self.index[row])]

    def columns(self) -> Mapping[str, NDArray[Any]] | None:
        whole = self.whole.columns()
        return None if whole is None else {name: a[self.index] for name, a in whole.items()}

    def present(self) -> Mapping[str, NDArray[np.bool_]]:
        return {name: there[self.index] for name, there in self.whole.present().items()}

    def ids(self, rows: NDArray[np.int64]) -> list[str] | None:
        return self.whole.ids(self.index[rows])


class PlainRows(Rows):
    """Wraps anything with `len` and `[]`, such as what a plug-in's `open` may return."""

    def __init__(self, rows: Any):
        self._rows = rows
        self.names = tuple(getattr(rows, "names", ()))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return self._rows[row]

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import Rows
from fusekit.errors import DataError, nearest
from fusekit_modules.sources.absent import absent
from fusekit_modules.sources.decode import decode

if TYPE_CHECKING:
    import pyarrow as pa


@register
class TableSpec(SourceSpec):
    """An index of rows in CSV (with a header), JSON lines or Parquet, with values and files.

    Cells of the columns in `files` are paths, relative to the index, of images (read by Pillow as
    `[h, w, c]`), .npy arrays, .txt, .json. `vectors` and `records` gather several columns into a
    new one; in these an empty cell is NaN or None, and a vector of empty cells alone is an absence,
    as is any other empty cell. A relative `path` starts at the working directory.
    """

    type: Literal["table"] = "table"
    path: Path = Field(description="the index: .csv, .jsonl (or .json), .parquet")
    files: tuple[str, ...] = Field((), description="columns whose cells are paths of files")
    vectors: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="columns of numbers that together make a vector"
    )
    records: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="columns that together make a record, for tabular"
    )
    ids: str | None = Field(None, description="column of row names")
    given: str | None = Field(None, description="column of split names, for split: as_given")

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        return TableRows(self)


class TableRows(Rows):
    """Rows of an index file, files read when asked for."""

    def __init__(self, spec: TableSpec):
        self._spec, self._folder = spec, spec.path.expanduser().parent
        table = read_table(spec.path.expanduser())
        self._count = table.num_rows
        if twice := [n for n, count in Counter(table.column_names).items() if count > 1]:
            raise DataError(f"{spec.path} has several columns called {', '.join(twice)}")
        self._columns = {name: _cells(table.column(name)) for name in table.column_names}
        made = spec.vectors | spec.records
        parts = [part for columns in made.values() for part in columns]
        for name in (*spec.files, *parts, spec.ids, spec.given):
            if name is not None and name not in self._columns:
                close = nearest(name, self._columns)
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                raise DataError(f"{spec.path} has no column {name!r}{hint}")
        self.names = (*self._columns, *made)
        self._check_ids()
        self._check_vectors()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        found = {name: cells[row] for name, cells in self._columns.items()}
        for name in self._spec.files:
            if found[name] is not None:
                found[name] = self._read(found[name])
        for name, columns in self._spec.records.items():
            found[name] = {column: found[column] for column in columns}
        for name, columns in self._spec.vectors.items():
            found[name] = _vector([found[column] for column in columns])
        return found

    def _read(self, name: str) -> Any:
        path = self._folder / name
        try:
            return decode(path.suffix.removeprefix("."), path.read_bytes())
        except OSError as error:
            raise DataError(f"{self._spec.path} names {path}: {error.strerror}") from error
        except DataError as error:
            error.add_note(f"in {path}")
            raise

    def _check_ids(self) -> None:
        """Raises `DataError` for a row without a name, or with that of another."""
        rows: dict[str, int] = {}
        for row, name in enumerate(self._columns[self._spec.ids] if self._spec.ids else ()):
            if name is None or not str(name).strip():
                raise DataError(f"{self._spec.path}: {self._spec.ids} is empty in row {row}")
            if (first := rows.setdefault(str(name), row)) != row:
                raise DataError(
                    f"{self._spec.path}: {self._spec.ids} is {name!s} in rows {first} and {row}"
                )

    def _check_vectors(self) -> None:
        """Raises `DataError` for the first cell of a vector that is no number. One such cell makes
        its whole column text in a CSV, so that a row by itself does not tell."""
        for name, columns in self._spec.vectors.items():
            for column in columns:
                for row, cell in enumerate(self._columns[column]):
                    if cell is not None and not _number(cell):
                        raise DataError(
                            f"{self._spec.path}: vectors.{name} takes numbers, and {column} holds"
                            f" {cell!r} in row {row}"
                        )

    def values(self, name: str) -> Iterable[Any] | None:
        return None if name in self._spec.files else self._columns.get(name)

    def column(self, name: str) -> NDArray[Any]:
        if name in self._columns and None not in (cells := self._columns[name]):
            return np.asarray(cells)
        return super().column(name)

    def given(self) -> NDArray[Any] | None:
        return None if self._spec.given is None else self.column(self._spec.given)

    def ids(self, rows: NDArray[np.int64]) -> list[str] | None:
        if self._spec.ids is None:
            return None
        cells = self._columns[self._spec.ids]
        return [str(cells[row]) for row in rows]


def read_table(path: Path) -> "pa.Table":
    """Reads an index by its extension. Raises `DataError`."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    try:
        match path.suffix:
            case ".csv":
                options = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
                return pyarrow.csv.read_csv(path, convert_options=options)
            case ".jsonl" | ".json":
                return pyarrow.json.read_json(path)
            case ".parquet":
                return pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise absent(path) from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    raise DataError(f"{path}: an index is .csv, .jsonl or .parquet")


def _vector(cells: list[Any]) -> NDArray[np.float32] | None:
    """Cells as a vector with NaN for those that are empty; None if all are."""
    if all(cell is None for cell in cells):
        return None
    return np.asarray([np.nan if cell is None else float(cell) for cell in cells], np.float32)


def _number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _cells(column: "pa.ChunkedArray") -> list[Any]:
    """Python values, None where a cell is empty; lists become arrays."""
    import pyarrow as pa

    values = column.to_pylist()
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return [None if value is None else np.asarray(value) for value in values]
    return values

"""What a stage wrote of a source's rows, in a file: one modality, by the number of the row."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.errors import DataError


class Annotations:
    """One modality of some rows of a source.

    Args:
      rows: `[n]`, their numbers in the whole source.
      values: `[n, ...]`.
      mask: `[n, t]`, the valid positions of padded sequences.
    """

    def __init__(
        self, rows: NDArray[np.int64], values: NDArray[Any], mask: NDArray[np.bool_] | None = None
    ):
        order = np.argsort(rows)
        self.rows, self.values = rows[order], values[order]
        self.mask = None if mask is None else mask[order]

    def __len__(self) -> int:
        return len(self.rows)

    def write(self, path: Path) -> None:
        """Raises `OSError`."""
        arrays: dict[str, Any] = {"rows": self.rows, "values": self.values}
        if self.mask is not None:
            arrays["mask"] = self.mask
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        with beside.open("wb") as file:
            np.savez(file, **arrays)
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Annotations":
        """Raises `DataError` for what is no such file."""
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in ("rows", "values", "mask") if name in found}
            return cls(**arrays)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            message = f"{path} holds no annotations that a stage wrote: {error}"
            raise DataError(message) from error

    def at(self, rows: NDArray[np.int64]) -> list[Any]:
        """Raw values of some rows; None for those that are not there."""
        places = np.searchsorted(self.rows, rows).clip(0, max(len(self) - 1, 0))
        there = self.rows[places] == rows if len(self) else np.zeros(len(rows), bool)
        return [self._one(at) if here else None for at, here in zip(places, there, strict=True)]

    def _one(self, at: int) -> Any:
        return self.values[at] if self.mask is None else self.values[at][self.mask[at]]

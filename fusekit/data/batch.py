"""What a pipeline yields: streams of NumPy arrays, and which rows they came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.component import ModalitySpec
from fusekit.errors import DataError
from fusekit.stream import Signature, Stream

VALID = "valid"
"""The reserved entry of a batch: which rows are data."""

DTYPES = {"float": np.float32, "int": np.int32, "bool": np.bool_}


@dataclass(frozen=True)
class Batch:
    """Rows side by side. Only `streams` goes to a device.

    Args:
      streams: one entry a modality, and `valid`, whose values `[b]` are false for rows that only
        fill up the last batch of an evaluation. Leaves are NumPy arrays. An entry has a mask if
        and only if its signature is padded, and a presence if and only if it is optional.
      index: `[b]`, the number of each row among all rows of all sources, whatever their split;
        -1 for rows that fill up.
      ids: names of the rows (empty for those that fill up), if any source names its rows.
    """

    streams: dict[str, Stream]
    index: NDArray[np.int64]
    ids: list[str] | None = None

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def valid(self) -> NDArray[np.bool_]:
        return np.asarray(self.streams[VALID].values)


class Collator:
    """Makes one modality's stream from raw values.

    Args:
      name: the modality's name.
      spec: its declaration; not a view.
    """

    def __init__(self, name: str, spec: ModalitySpec):
        self.name, self.spec = name, spec
        self.signature: Signature = spec.signature()

    def __call__(self, values: Sequence[Any], where: Callable[[int], str]) -> Stream:
        """One stream of `len(values)` rows.

        Args:
          values: raw values, None for an absence.
          where: what to call the row at a position, such as `row 3 of source digits`.

        Raises:
          DataError: a row is absent and the modality is not optional, or contents do not fit.
        """
        present = np.array([value is not None for value in values], bool)
        if not self.signature.optional and not present.all():
            raise DataError(
                f"{where(int(np.argmin(present)))} has no {self.name}, which is not optional:"
                f" declare modalities.{self.name}.optional, or leave such rows out"
            )
        raw = [value for value in values if value is not None]
        rows = np.flatnonzero(present)
        contents, mask = self._contents(raw, lambda k: where(int(rows[k])))
        if not present.all():
            contents = _spread(contents, present)
            mask = None if mask is None else _spread(mask, present)
        return Stream(
            values=contents,  # pyright: ignore[reportArgumentType]
            mask=mask,  # pyright: ignore[reportArgumentType]
            presence=present if self.signature.optional else None,  # pyright: ignore
            spans=self.signature.spans,
            grid=self.signature.grid,
        )

    def _contents(
        self, raw: list[Any], where: Callable[[int], str]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        shape = (len(raw), *self.signature.shape)
        contents, mask = self._collate(raw, where) if raw else self._nothing()
        if contents.shape != shape:
            raise DataError(
                f"modality {self.name} collates to {contents.shape[1:]},"
                f" but {self.signature.shape} is declared"
            )
        if not self.signature.padded:
            return contents, None
        return contents, np.ones(shape[:2], bool) if mask is None else mask

    def _nothing(self) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Contents of no row, of the dtype that rows have."""
        try:
            return self.spec.collate([])
        except (ValueError, IndexError, TypeError):
            return np.zeros((0, *self.signature.shape), DTYPES[self.signature.dtype]), None

    def _collate(
        self, raw: list[Any], where: Callable[[int], str]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Collates; after a complaint looks for the row at fault, so that it can be named."""
        try:
            return self.spec.collate(raw)
        except (DataError, ValueError, TypeError) as error:
            for at, value in enumerate(raw):
                try:
                    self.spec.collate([value])
                except (DataError, ValueError, TypeError) as single:
                    text = str(single)
                    text = text[5:] if text.startswith("row 0 does") else f": {text}"
                    named = DataError(f"{where(at)}, modality {self.name}{text}")
                    for note in getattr(single, "__notes__", ()):
                        named.add_note(note)
                    raise named from single
            raise DataError(f"modality {self.name}: {error}") from error


def _spread(some: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[Any]:
    """Puts rows where they belong, zeros elsewhere."""
    full = np.zeros((len(rows), *some.shape[1:]), some.dtype)
    full[rows] = some
    return full


def merged(
    parts: list[tuple[NDArray[np.int64], dict[str, Stream]]], rows: int
) -> dict[str, Stream]:
    """Streams of `rows` rows from parts of them: where each part's rows stand, and its streams."""

    def joined(name: str, leaf: str) -> Any:
        arrays = [(here, getattr(streams[name], leaf)) for here, streams in parts]
        if arrays[0][1] is None:
            return None
        whole = np.zeros((rows, *arrays[0][1].shape[1:]), arrays[0][1].dtype)
        for here, array in arrays:
            whole[here] = array
        return whole

    return {
        name: stream.with_(**{leaf: joined(name, leaf) for leaf in ("values", "mask", "presence")})
        for name, stream in parts[0][1].items()
    }

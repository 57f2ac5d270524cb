"""Tiny modalities and sources for tests of the pipeline, which knows no concrete component."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest

from fusekit.component import ModalitySpec, SourceSpec
from fusekit.data.rows import ArrayRows, Rows
from fusekit.errors import DataError
from fusekit.stream import Signature, Span


class Vector(ModalitySpec):
    type: Literal["vector"] = "vector"
    width: int = 3

    def signature(self) -> Signature:
        return Signature((("embed", self.width),), optional=self.optional)

    def collate(self, rows: list[Any]) -> tuple[np.ndarray, np.ndarray | None]:
        for index, row in enumerate(rows):
            if np.shape(row) != (self.width,):
                raise DataError(f"row {index} does not fit: found shape {np.shape(row)}")
        return np.asarray(rows, np.float32).reshape(-1, self.width), None


class Label(ModalitySpec):
    type: Literal["label"] = "label"

    def signature(self) -> Signature:
        return Signature((), dtype="int", classes=10, optional=self.optional)

    def collate(self, rows: list[Any]) -> tuple[np.ndarray, np.ndarray | None]:
        return np.asarray(rows, np.int32), None


class Text(ModalitySpec):
    type: Literal["text"] = "text"
    length: int = 4

    def signature(self) -> Signature:
        return Signature(
            (("time", self.length),),
            dtype="int",
            spans=(Span("text", self.length),),
            padded=True,
            optional=self.optional,
        )

    def collate(self, rows: list[Any]) -> tuple[np.ndarray, np.ndarray | None]:
        values = np.zeros((len(rows), self.length), np.int32)
        for index, row in enumerate(rows):
            values[index, : len(row)] = row
        lengths = np.array([len(row) for row in rows], int)
        return values, np.arange(self.length) < lengths[:, None]


class SlowRows(Rows):
    """The same rows without whole columns: the pipeline reads them one by one."""

    def __init__(self, rows: Rows):
        self._rows, self.names = rows, rows.names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return self._rows[row]

    def given(self) -> Any:
        return self._rows.given()

    def ids(self, rows: Any) -> list[str] | None:
        return self._rows.ids(rows)


class Numbers(SourceSpec):
    """`count` rows: x = (i, i + .25, 2i), label = i % 10, half of the rows train."""

    type: Literal["numbers"] = "numbers"
    count: int = 40
    start: int = 0
    slow: bool = False
    named: bool = False

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        i = np.arange(self.start, self.start + self.count, dtype=np.float32)
        rows: Rows = ArrayRows(
            {
                "x": np.stack([i, i + 0.25, 2 * i], 1),
                "z": np.stack([-i, i, i], 1),
                "label": (i % 10).astype(np.int32),
                "even": (i % 2 == 0),
                "person": (i // 4).astype(np.int32),
            },
            given=np.where(np.arange(self.count) % 4 < 3, "train", "test"),
            present={"z": (i % 3 > 0)},
            ids=[f"n{int(k)}" for k in i] if self.named else None,
        )
        return SlowRows(rows) if self.slow else rows


@pytest.fixture
def fakes() -> ModuleType:
    """This module: test files of importlib mode cannot import each other."""
    return sys.modules[__name__]

"""Protocols: which rows train, validate and test. Declared on a source as `split`."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fusekit.config.base import Declared
from fusekit.data.partition import partition
from fusekit.data.randomness import generator
from fusekit.errors import DataError

Name = Literal["train", "validation", "test"]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Parts = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Told:
    """What a protocol may know of the rows that it divides.

    Args:
      count: how many there are.
      given: `[count]`, the name of the split that the data give each row.
      repeats: `[r, k]`, the training rows of each repeat, if the data say.
      column: reads a whole column, for `stratify` and `group`.
    """

    count: int
    given: NDArray[Any] | None
    repeats: NDArray[np.int64] | None
    column: Callable[[str], NDArray[Any]]


class NoSplitError(DataError):
    """A source has no rows of a split."""

    def __init__(self, split: str, splits: tuple[str, ...]):
        hint = ""
        if split == "validation" and "train" in splits:
            hint = "; split.validation carves some out of train"
        super().__init__(f"no rows to {split}: the splits are {', '.join(splits)}{hint}")


class Protocol(Declared):
    """What all protocols share: a seed of their own, and validation rows carved out of train.

    The seed is not the run's, so that runs with many seeds are scored on the same rows.
    """

    type: Any
    seed: int = Field(default=0, ge=0, description="decides which rows go where")
    stratify: str | None = Field(
        default=None, description="column whose classes keep their proportions"
    )
    group: str | None = Field(default=None, description="column whose equal values stay together")
    validation: Share = Field(
        default=0.0, description="share of the training rows held out to validate"
    )

    @abstractmethod
    def divide(self, told: Told) -> Parts:
        """Rows of each split before validation is carved out."""

    def parts(self, told: Told) -> Parts:
        """Rows of each split that has any, ascending."""
        parts = self.divide(told)
        if self.validation:
            if len(parts.get("validation", ())):
                raise DataError(
                    "split.validation would carve out of train, but there are validation rows"
                )
            train = parts["train"]
            held = self._cut(train, [1 - self.validation, self.validation], told, "validation")
            parts = parts | {"train": train[held == 0], "validation": train[held == 1]}
        return {name: np.sort(rows) for name, rows in parts.items() if len(rows)}

    def _cut(
        self, rows: NDArray[np.int64], shares: list[float], told: Told, *purpose: str | int
    ) -> NDArray[np.int64]:
        return partition(
            len(rows),
            shares,
            generator(self.seed, "split", *purpose),
            classes=_single(told, "stratify", self.stratify, rows),
            groups=_single(told, "group", self.group, rows),
        )


def _single(
    told: Told, field: str, column: str | None, rows: NDArray[np.int64]
) -> NDArray[Any] | None:
    """A column that has one value a row. Raises `DataError` for another."""
    if column is None:
        return None
    try:
        values = told.column(column)
    except ValueError as error:  # arrays of several shapes
        raise DataError(f"split.{field}: column {column!r} has no single values") from error
    if values.shape != (told.count,):
        raise DataError(
            f"split.{field}: column {column!r} holds arrays of shape {values.shape[1:]},"
            " and it takes one value a row"
        )
    return values[rows]


class AsGiven(Protocol):
    """The splits that the data come with."""

    type: Literal["as_given"] = "as_given"

    def divide(self, told: Told) -> Parts:
        if told.given is None:
            raise DataError(
                "the data come without splits; declare one, such as"
                " split: {type: holdout, fractions: {train: 0.8, test: 0.2}}"
            )
        names = dict.fromkeys(str(name) for name in np.unique(told.given))
        return {name: np.flatnonzero(told.given == name) for name in names}


class Holdout(Protocol):
    """All rows pooled and divided once."""

    type: Literal["holdout"] = "holdout"
    fractions: dict[Name, Annotated[float, Field(gt=0.0, le=1.0)]] = Field(
        default={"train": 0.7, "validation": 0.15, "test": 0.15},
        description="share of each split; they add up to 1",
    )

    @model_validator(mode="after")
    def _whole(self) -> "Holdout":
        total = sum(self.fractions.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the fractions add up to {total:g}, not to 1")
        return self

    def divide(self, told: Told) -> Parts:
        shares = list(self.fractions.values())
        part = self._cut(np.arange(told.count), shares, told, "holdout")
        return {name: np.flatnonzero(part == k) for k, name in enumerate(self.fractions)}


class KFold(Protocol):
    """All rows pooled and divided in `folds`; one is the test split, the others train."""

    type: Literal["kfold"] = "kfold"
    folds: int = Field(default=5, ge=2, le=1000, description="how many parts")
    fold: int = Field(default=0, ge=0, description="the part to test on, from 0")

    @model_validator(mode="after")
    def _within(self) -> "KFold":
        if self.fold >= self.folds:
            raise ValueError(
                f"fold {self.fold} does not exist: folds count from 0 to {self.folds - 1}"
            )
        return self

    def divide(self, told: Told) -> Parts:
        part = self._cut(np.arange(told.count), [1 / self.folds] * self.folds, told, "kfold")
        return {
            "train": np.flatnonzero(part != self.fold),
            "test": np.flatnonzero(part == self.fold),
        }


class Repeated(Protocol):
    """A fixed number of training rows drawn anew for each repeat; all others test."""

    type: Literal["repeated"] = "repeated"
    train: int = Field(default=100, ge=1, description="training rows, validation included")
    repeats: int = Field(default=10, ge=1, description="how many repeats there are")
    repeat: int = Field(default=0, ge=0, description="which of them this is, from 0")
    rows: Literal["drawn", "given"] = Field(
        default="drawn", description="drawn by seed and repeat, or those that the data come with"
    )

    @model_validator(mode="after")
    def _within(self) -> "Repeated":
        if self.repeat >= self.repeats:
            raise ValueError(
                f"repeat {self.repeat} does not exist: they count from 0 to {self.repeats - 1}"
            )
        return self

    def divide(self, told: Told) -> Parts:
        test = np.ones(told.count, bool)
        test[self._given(told) if self.rows == "given" else self._drawn(told)] = False
        return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}

    def _drawn(self, told: Told) -> NDArray[np.int64]:
        if self.train >= told.count:
            raise DataError(
                f"split.train asks for {self.train} of {told.count} rows: none is left to test"
            )
        share = self.train / told.count
        part = self._cut(np.arange(told.count), [share, 1 - share], told, "repeated", self.repeat)
        return np.flatnonzero(part == 0)

    def _given(self, told: Told) -> NDArray[np.int64]:
        found = told.repeats
        if found is None or self.repeat >= len(found) or found.shape[1] != self.train:
            has = "none" if found is None else f"{len(found)} repeats of {found.shape[1]} rows"
            raise DataError(
                f"split.rows: given, but of {self.repeats} repeats of {self.train} training rows"
                f" the data give {has}; rows: drawn draws them"
            )
        return found[self.repeat].astype(np.int64)


Split = Annotated[AsGiven | Holdout | KFold | Repeated, Field(discriminator="type")]

"""Reads rows of one source as streams: missingness drawn, transforms applied, collated."""

from collections.abc import Iterable, Mapping
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.component import ModalitySpec, SourceSpec, TransformSpec
from fusekit.data.annotations import Annotations
from fusekit.data.batch import Collator
from fusekit.data.fit import check_fit, check_rates
from fusekit.data.missing import Missing
from fusekit.data.randomness import generator
from fusekit.data.rows import PlainRows, Rows, View
from fusekit.data.scale import Scale
from fusekit.data.split import NoSplitError
from fusekit.errors import DataError
from fusekit.stream import Stream

Ints = NDArray[np.int64]
KEPT_BYTES = 1 << 28
"""A modality of more bytes is collated batch by batch, even if its column is in memory."""

Fields = dict[str, list[Any]]
"""By modality, one raw value a row; None for an absence."""


def _present(rows: Rows, column: str) -> Iterable[Any]:
    """The values of a column in the rows that have it."""
    whole = rows.columns()
    if whole is None:
        return (row[column] for row in rows if row.get(column) is not None)
    return whole[column][rows.present()[column]] if column in rows.present() else whole[column]


class Reader:
    """One split of one source.

    Args:
      name: the source's name in the config.
      spec: its declaration.
      modalities: those to read; views are left out.
      split: train, validation or test.
      seed: of missingness and transforms.
      training: whether transforms and missingness meant for training apply.

    Raises:
      NoSplitError: the source has no rows of this split.
      DataError: the source cannot be read, or does not fit the modalities.
    """

    def __init__(
        self,
        name: str,
        spec: SourceSpec,
        modalities: Mapping[str, ModalitySpec],
        *,
        split: str,
        seed: int,
        training: bool,
    ):
        self.name, self.spec, self.split, self.seed = name, spec, split, seed
        self._stored = {
            m: Annotations.read(path) for m, path in spec.annotations.items() if m in modalities
        }
        own = {m: declared for m, declared in modalities.items() if m not in self._stored}
        try:
            opened = spec.open(split, own)
        except NoSplitError:
            raise
        except DataError as error:
            raise DataError(f"source {name}: {error}") from error
        if not isinstance(opened, View):
            opened = View(PlainRows(opened), np.arange(len(opened)))
        self.whole, self.index = opened.whole, opened.index
        self.column = {m: spec.provides.get(m, m) for m in modalities}
        self._arrays = self.whole.columns()
        self._present = self.whole.present() if self._arrays is not None else {}
        self._missing = {
            m: rule
            for m, rule in spec.missing.items()
            if split in rule.splits and m in modalities and rule.rate != 0
        }
        self._transforms: dict[str, TransformSpec] = {
            key: t for key, t in spec.transforms.items() if training or t.when == "always"
        }
        known = (*self.whole.names, *self._stored) if self.whole.names else ()
        check_fit(name, spec, known, own)
        check_rates(name, spec, self.whole, modalities)
        self._scales = self._fit(own)
        self._collators = {m: Collator(m, spec) for m, spec in modalities.items()}
        self._kept = self._keepable()
        self._whole: dict[str, Stream] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.index)

    def _fit(self, modalities: Mapping[str, ModalitySpec]) -> dict[str, Scale]:
        """The scale of each modality to standardise; columns in memory are scaled here."""
        known = self.whole.names
        for m in self.spec.standardise:
            if m in self._stored:
                raise DataError(f"source {self.name} cannot standardise {m}, which a stage wrote")
        wanted = [
            m
            for m in self.spec.standardise
            if m in modalities and (not known or self.column[m] in known)
        ]
        if not wanted:
            return {}
        train = self.spec.open("train", modalities)
        scales = {m: Scale.fit(_present(train, self.column[m])) for m in wanted}
        if self._arrays is None:
            return scales
        scaled = {self.column[m]: s(self._arrays[self.column[m]]) for m, s in scales.items()}
        self._arrays = {**self._arrays, **scaled}
        return {}

    def read(self, places: Ints, epochs: Ints) -> dict[str, Stream]:
        """One stream a modality, of these rows.

        Args:
          places: `[k]`, positions in the split.
          epochs: `[k]`, how often the split has been gone through before.

        Raises:
          DataError: a modality that is not optional is absent, or contents do not fit.
        """
        rows = self.index[places]
        asked = {rule.given for rule in self._missing.values() if rule.given}
        columns = {name: self.spec.provides.get(name, name) for name in asked}
        columns |= {m: c for m, c in self.column.items() if m not in self._kept}
        fields = self._raw(rows, columns)
        lost = self._lost(fields, rows, epochs)
        streams = {m: self._gather(m, places, lost.get(m)) for m in self._kept}
        loose = {m: fields[m] for m in self.column if m not in self._kept}
        for modality, values in loose.items():
            loose[modality] = self._prepared(modality, values, lost.get(modality))
        if self._transforms:
            loose = self._transformed(loose, rows, epochs)
        for modality, values in loose.items():
            streams[modality] = self._collators[modality](
                values, lambda at: self.where(int(rows[at]))
            )
        return {modality: streams[modality] for modality in self.column}

    def _keepable(self) -> tuple[str, ...]:
        """Modalities collated once, since their columns are in memory and no transform changes
        them."""
        touched: set[str] = set()
        for transform in self._transforms.values():
            changes = transform.touches()
            touched |= set(self.column) if changes is None else set(changes)
        return tuple(
            modality
            for modality, collator in self._collators.items()
            if self._arrays is not None
            and modality not in touched
            and 4 * len(self) * prod(collator.signature.shape) <= KEPT_BYTES
        )

    def _gather(self, modality: str, places: Ints, lost: NDArray[np.bool_] | None) -> Stream:
        """Rows of a modality that is collated once, the first time that it is asked for."""
        with self._lock:
            if modality not in self._whole:
                values = self._raw(self.index, {modality: self.column[modality]})[modality]
                self._whole[modality] = self._collators[modality](
                    values, lambda at: self.where(int(self.index[at]))
                )
        whole = self._whole[modality]
        values, mask, presence = (
            None if array is None else np.asarray(array)[places]
            for array in (whole.values, whole.mask, whole.presence)
        )
        if presence is not None and lost is not None and lost.any():
            presence &= ~lost
            values[lost] = 0  # pyright: ignore[reportOptionalSubscript]
            if mask is not None:
                mask[lost] = False
        return whole.with_(values=values, mask=mask, presence=presence)

    def _prepared(
        self, modality: str, values: list[Any], lost: NDArray[np.bool_] | None
    ) -> list[Any]:
        if lost is not None:
            values = [None if x else v for v, x in zip(values, lost, strict=True)]
        scale = self._scales.get(modality)
        return values if scale is None else [None if v is None else scale(v) for v in values]

    def _raw(self, rows: Ints, columns: Mapping[str, str]) -> Fields:
        fields = {m: self._stored[m].at(rows) for m in columns if m in self._stored}
        rest = {m: column for m, column in columns.items() if m not in fields}
        if rest:
            fields |= (self._by_row if self._arrays is None else self._by_column)(rows, rest)
        return fields

    def _by_column(self, rows: Ints, columns: Mapping[str, str]) -> Fields:
        fields: Fields = {}
        for modality, column in columns.items():
            array = (self._arrays or {}).get(column)
            if array is None:
                fields[modality] = [None] * len(rows)
                continue
            fields[modality] = list(array[rows])
            if column in self._present:
                there = self._present[column][rows]
                fields[modality] = [
                    v if p else None for v, p in zip(fields[modality], there, strict=True)
                ]
        return fields

    def _by_row(self, rows: Ints, columns: Mapping[str, str]) -> Fields:
        found = [self._row(row) for row in rows.tolist()]
        return {m: [row.get(column) for row in found] for m, column in columns.items()}

    def _row(self, row: int) -> Mapping[str, Any]:
        try:
            return self.whole[row]
        except DataError as error:
            error.add_note(f"in {self.where(row)}")
            raise

    def _lost(self, fields: Fields, rows: Ints, epochs: Ints) -> dict[str, NDArray[np.bool_]]:
        """Drawn for all modalities before any is taken away, so that a rule may depend on a
        modality that another rule takes. Runs of all seeds are scored on the same rows."""
        lost, seed = {}, self.seed if self.split == "train" else 0
        for modality, rule in self._missing.items():
            given = fields[rule.given] if rule.given else None
            self._check_given(modality, rule, given)
            lost[modality] = rule.drawn(self.name, modality, rows, epochs, given, seed=seed)
        return lost

    def _check_given(self, modality: str, rule: Missing, given: list[Any] | None) -> None:
        if given and all(value is None for value in given) and rule.given not in self.column:
            raise DataError(
                f"source {self.name}, missing.{modality}: there is no modality or column"
                f" {rule.given!r} for the rate to depend on"
            )

    def _transformed(self, fields: Fields, rows: Ints, epochs: Ints) -> Fields:
        changed: Fields = {modality: [] for modality in fields}
        for at, (number, epoch) in enumerate(zip(rows.tolist(), epochs.tolist(), strict=True)):
            row = {m: values[at] for m, values in fields.items() if values[at] is not None}
            for key, transform in self._transforms.items():
                rng = generator(self.seed, "transform", self.name, key, number, epoch)
                try:
                    row = transform.apply(row, rng)
                except DataError as error:
                    error.add_note(f"in transform {key} of source {self.name}, row {number}")
                    raise
            for modality, values in changed.items():
                values.append(row.get(modality))
        return changed

    def where(self, row: int) -> str:
        """What to call a row of the whole source in an error."""
        ids = self.whole.ids(np.asarray([row]))
        return f"row {row} of source {self.name}{f' ({ids[0]})' if ids else ''}"

"""Whether what a source declares fits its columns and the modalities."""

from collections.abc import Iterator, Mapping

import numpy as np

from fusekit.component import ModalitySpec, SourceSpec
from fusekit.data.rows import Rows
from fusekit.errors import DataError, nearest
from fusekit.stream import Signature

VALUES = 20
"""A message lists so many values of a column."""


def check_fit(
    name: str, spec: SourceSpec, columns: tuple[str, ...], modalities: Mapping[str, ModalitySpec]
) -> None:
    """Checks a source by what it declares; raises `DataError` for the first thing that is wrong.

    Args:
      name: the source's name in the config.
      spec: its declaration.
      columns: its columns; empty where they are not known beforehand.
      modalities: those that are read. A source may speak of others that it could provide.
    """
    for modality, column in spec.provides.items():
        if modality in modalities and columns and column not in columns:
            raise DataError(
                f"source {name} has no column {column!r}, which it should provide as {modality}:"
                f" its columns are {_listed(column, columns)}"
            )
    for modality, declared in modalities.items():
        column = spec.provides.get(modality, modality)
        if columns and column not in columns and not declared.optional:
            raise DataError(
                f"source {name} has no column {column!r} for modality {modality}, which is not"
                f" optional: its columns are {_listed(column, columns)}"
            )
    known = (*modalities, *spec.provides, *columns)
    for field, modality in _spoken_of(spec):
        if columns and modality not in known:
            raise DataError(
                f"source {name} has no modality {modality!r}, of which {field} speaks:"
                f" there are {_listed(modality, tuple(dict.fromkeys(known)))}"
            )
    for modality, rule in spec.missing.items():
        if modality in modalities and not modalities[modality].optional and rule.rate != 0:
            raise DataError(
                f"source {name} takes {modality} away from rows (missing.{modality}), but it is"
                f" not optional: declare modalities.{modality}.optional"
            )


def check_rates(
    name: str, spec: SourceSpec, rows: Rows, modalities: Mapping[str, ModalitySpec]
) -> None:
    """Raises `DataError` for a rate of missingness whose value never occurs.

    Only what is known without reading rows counts: columns in memory, or the declared classes.
    """
    for modality, rule in spec.missing.items():
        if rule.given is None or not isinstance(rule.rate, dict):
            continue
        there = _values(spec.provides.get(rule.given, rule.given), rule.given, rows, modalities)
        for value in rule.rate if there else ():
            if value not in there:
                raise DataError(
                    f"source {name}, missing.{modality}.rate: {rule.given} is never {value!r}:"
                    f" its values are {_listed(value, there[:VALUES])}"
                    + (" and others" if len(there) > VALUES else "")
                )


def _values(
    column: str, given: str, rows: Rows, modalities: Mapping[str, ModalitySpec]
) -> tuple[str, ...]:
    """What a column may hold, as text; nothing where it is not known."""
    values = rows.values(column)
    if values is not None:
        some = np.unique(values) if isinstance(values, np.ndarray) else values
        return tuple(dict.fromkeys(map(str, some)))
    signature = modalities[given].signature() if given in modalities else None
    if not isinstance(signature, Signature) or not signature.classes:
        return ()
    return (*map(str, range(signature.classes)), *signature.names)


def _spoken_of(spec: SourceSpec) -> Iterator[tuple[str, str]]:
    """(field, modality) wherever a source names one."""
    for modality, rule in spec.missing.items():
        yield f"missing.{modality}", modality
        if rule.given is not None:
            yield f"missing.{modality}.given", rule.given
    for key, transform in spec.transforms.items():
        for modality in transform.touches() or ():
            yield f"transforms.{key}", modality
    for modality in spec.standardise:
        yield "standardise", modality


def _listed(name: str, names: tuple[str, ...]) -> str:
    close = nearest(name, names)
    return ", ".join(names) + (f"; did you mean {', '.join(close)}?" if close else "")

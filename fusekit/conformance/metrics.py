"""The laws for metrics, which run on the host and have no gradient."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fusekit.component import MetricSpec
from fusekit.conformance.cases import Case
from fusekit.conformance.checks import round_trip
from fusekit.conformance.laws import BrokenError

COPIES = 8
"""Batches in one table of columns: a rank or an area over four rows says little."""


def columns(case: Case, seed: int) -> dict[str, np.ndarray]:
    """What evaluation gathers: values and masks by role, floats in float64."""
    found: dict[str, Any] = {}
    for copy in range(COPIES):
        for role, stream in case.streams(seed + 100 * copy).items():
            values = np.asarray(stream.values)
            wide = values.astype(np.float64) if values.dtype.kind == "f" else values
            found.setdefault(role, []).append(wide)
            if stream.mask is not None:
                found.setdefault(f"{role}.mask", []).append(np.asarray(stream.mask))
    return {role: np.concatenate(parts) for role, parts in found.items()}


def check_metric(case: Case) -> Iterator[tuple[str, str]]:
    """The (law, reason) pairs that a metric breaks."""
    for law in (_round_trip, _rows, _order, _nothing):
        try:
            law(case)
        except Exception as error:
            yield law.__name__.strip("_"), f"{type(error).__name__}: {error}"


def _score(case: Case, given: dict[str, np.ndarray], rows: np.ndarray) -> float:
    spec: Any = case.spec
    assert isinstance(spec, MetricSpec)
    return float(spec.compute(given, rows))


def _round_trip(case: Case) -> None:
    round_trip(case.spec)


def _rows(case: Case) -> None:
    """Rows that do not count change nothing, whatever they hold; those that count do."""
    one, two = columns(case, 1), columns(case, 2)
    rows = np.arange(len(next(iter(one.values())))) % 2 == 0
    mixed = {
        role: np.where(rows.reshape((-1,) + (1,) * (values.ndim - 1)), values, two[role])
        for role, values in one.items()
    }
    given, other = _score(case, one, rows), _score(case, mixed, rows)
    if not np.isfinite(given):
        raise BrokenError(f"it is {given} of ordinary rows")
    if given != other:
        raise BrokenError(f"rows that do not count change it from {given} to {other}")
    if given == _score(case, one, ~rows) == _score(case, two, rows) == _score(case, two, ~rows):
        raise BrokenError("it is the same for rows of other contents")


def _order(case: Case) -> None:
    """The order of the rows does not matter."""
    given = columns(case, 1)
    rows = np.arange(len(next(iter(given.values())))) % 3 > 0
    order = np.random.default_rng(0).permutation(len(rows))
    moved = {role: values[order] for role, values in given.items()}
    one, other = _score(case, given, rows), _score(case, moved, rows[order])
    if not np.isclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True):
        raise BrokenError(f"another order of the rows changes it from {one} to {other}")


def _nothing(case: Case) -> None:
    """Without any row that counts there is no score, and no error either."""
    given = columns(case, 1)
    score = _score(case, given, np.zeros(len(next(iter(given.values()))), bool))
    if not np.isnan(score):
        raise BrokenError(f"it is {score} of no row; expected NaN")

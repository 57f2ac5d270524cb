"""From the body of a request to the arrays of a program, or everything that is wrong with it.

    {"rows": [{"image": [[...]], "text": [4, 1, 7]}, {"image": [[...]]}]}

A row is a mapping from inputs to numbers. An optional input may be left out or null. A padded
sequence may be shorter than declared. A table is a list, or a mapping from fields to numbers, and
null marks a field that is not known.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.errors import Problem, nearest
from fusekit.export.manifest import Input, Manifest
from fusekit.export.serve.faults import RequestError, cut
from fusekit.export.serve.numbers import Misfit, cell, numbers

ROWS = "rows"
Arrays = dict[str, NDArray[Any]]


class Rows:
    """Reads requests for one export.

    Args:
      manifest: of the export.
      limit: most rows of a request.
    """

    def __init__(self, manifest: Manifest, limit: int):
        self.inputs = {one.name: one for one in manifest.inputs}
        self.limit = limit

    def read(self, body: bytes) -> tuple[Arrays, int]:
        """The arrays of a request and how many rows they have. Raises `RequestError`."""
        rows = self._rows(_parsed(body))
        arrays = self.blank(len(rows))
        problems = [problem for k, row in enumerate(rows) for problem in self._row(k, row, arrays)]
        if problems:
            raise RequestError(422, "invalid", "the rows do not fit the model", problems)
        return arrays, len(rows)

    def blank(self, rows: int) -> Arrays:
        """Rows of zeros, padded and absent where they may be."""
        return {
            port.name: np.zeros((rows, *_sizes(port.shape)), port.dtype)
            for one in self.inputs.values()
            for port in one.ports
        }

    def _rows(self, found: Any) -> list[Any]:
        if not isinstance(found, dict):
            raise RequestError(422, "invalid", 'the body is an object: {"rows": [...]}')
        unknown = [name for name in found if name != ROWS]
        if unknown:
            close = nearest(unknown[0], [ROWS])
            problem = Problem((), "unknown key", cut(unknown[0]), ROWS, close)
            raise RequestError(422, "invalid", 'the body has the key "rows" alone', [problem])
        rows = found.get(ROWS)
        if not isinstance(rows, list) or not rows:
            raise RequestError(422, "invalid", '"rows" is a list of one row or more')
        if len(rows) > self.limit:
            message = f"{len(rows)} rows; a request has at most {self.limit}"
            raise RequestError(413, "too_large", message)
        return rows

    def _row(self, k: int, row: Any, arrays: Arrays) -> Iterator[Problem]:
        """Fills row `k` of the arrays, and says what is wrong with it."""
        if not isinstance(row, dict):
            yield Problem((ROWS, k), "a row is an object", expected="inputs by name")
            return
        for name in row:
            if name not in self.inputs:
                known = ", ".join(self.inputs)
                close = nearest(name, self.inputs)
                yield Problem((ROWS, k, cut(name)), "no such input", cut(name), known, close)
        for name, one in self.inputs.items():
            value = row.get(name)
            if value is None:
                if one.presence is None:
                    yield Problem((ROWS, k, name), "is missing, and not optional")
                continue
            try:
                _fill(one, value, k, arrays)
            except Misfit as misfit:
                yield misfit.problem.under(ROWS, k, name)
            else:
                if one.presence is not None:
                    arrays[one.presence.name][k] = True


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_refused, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise RequestError(400, "malformed", "the body is nested too deeply") from error
    except ValueError as error:
        raise RequestError(400, "malformed", f"the body is no JSON: {cut(error)}") from error


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _sizes(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape[1:])


def _fill(one: Input, value: Any, k: int, arrays: Arrays) -> None:
    """Puts a row's value into the arrays of an input. Raises `Misfit`."""
    shape = _sizes(one.values.shape)
    if one.kind == "table":
        assert one.mask is not None
        for field, given in enumerate(_fields(one, value)):
            if given is not None:
                known = one.names[field] if one.names else field
                arrays[one.values.name][k, field] = cell(given, one.cardinalities[field], known)
                arrays[one.mask.name][k, field] = True
        return
    found = numbers(value, shape, one.values.dtype, ragged=one.mask is not None)
    if one.classes is not None and found.size:
        _codes(found, one.classes)
    if one.standardised is not None:
        mean, deviation = (np.array(one.standardised[key]) for key in ("mean", "deviation"))
        found = (found.astype(np.float64) - mean) / deviation
    if one.mask is None:
        arrays[one.values.name][k] = found
        return
    arrays[one.values.name][k, : len(found)] = found
    arrays[one.mask.name][k, : len(found)] = True


def _fields(one: Input, value: Any) -> list[Any]:
    """The cells of a table in order."""
    if isinstance(value, list):
        if len(value) != len(one.cardinalities):
            raise Misfit("has another number of fields", len(value), len(one.cardinalities))
        return value
    if not isinstance(value, Mapping):
        raise Misfit("is no table", type(value).__name__, "a list, or numbers by field")
    for name in value:
        if name not in one.names:
            known = ", ".join(one.names)
            raise Misfit("no such field", cut(name), known, nearest(name, one.names))
    return [value.get(name) for name in one.names]


def _codes(found: NDArray[Any], classes: int) -> None:
    if found.min() < 0 or found.max() >= classes:
        bad = found.min() if found.min() < 0 else found.max()
        raise Misfit("is no code of this input", int(bad), f"0 to {classes - 1}")

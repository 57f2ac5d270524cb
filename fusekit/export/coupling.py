"""Whether a row's answers depend on the other rows of its batch: such a model cannot be served in
batches of whoever asks."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fusekit.export.function import Function
from fusekit.export.manifest import Input

ROWS = 8
TOLERANCE = 1e-4
"""Of the largest value: less is rounding."""


def coupled(function: Function, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Nodes that couple rows, if the answers show it; those of which only other ports do (the
    balance of experts) do not count. It is tried with random rows, and only where a node says that
    it couples always."""
    if not function.coupled:
        return ()
    one, other = (_rows(function, np.random.default_rng(seed)) for seed in (0, 1))
    mixed = {name: np.concatenate([one[name][:1], other[name][1:]]) for name in one}
    call = jax.jit(function.__call__)
    found, changed = (call(dict(parameters), rows) for rows in (one, mixed))
    depends = any(_apart(found[name], changed[name]) for name in found)
    return function.coupled if depends else ()


def _rows(function: Function, rng: np.random.Generator) -> dict[str, Any]:
    made = {}
    for one in function.inputs:
        for port in one.ports:
            shape = (ROWS, *map(int, port.shape[1:]))
            made[port.name] = np.ones(shape, port.dtype)
        made[one.values.name] = _values(one, rng)
    return made


def _values(one: Input, rng: np.random.Generator) -> np.ndarray:
    shape = (ROWS, *map(int, one.values.shape[1:]))
    if one.values.dtype == "int32":
        return rng.integers(0, one.classes or 2, shape).astype("int32")
    values = rng.normal(size=shape).astype("float32")
    for field, count in enumerate(one.cardinalities):
        if count:
            values[:, field] = rng.integers(0, count, ROWS)
    return values if one.values.dtype == "float32" else values > 0


def _apart(one: Any, other: Any) -> bool:
    first, changed = (np.asarray(array[:1], np.float64) for array in (one, other))
    return bool(np.abs(first - changed).max() > TOLERANCE * max(1.0, np.abs(first).max()))

"""The least that a low-rank product must do, from shapes alone."""

from typing import Any

import jax

from fusekit_modules.ops.floor import Floor
from fusekit_modules.ops.low_rank.form import Given


def forward(given: Given) -> Floor:
    """One product a modality and rank; everything is read and the result written, each once."""
    return Floor(_products(given), _bytes(given) + _result(given))


def backward(given: Given) -> Floor:
    """Three products a modality and rank, one of which makes factors again; everything and the
    result's gradient are read, and gradients by everything written."""
    return Floor(3 * _products(given), 2 * _bytes(given) + _result(given))


def _products(given: Given) -> int:
    _, rank, rows, width = given.sizes
    return sum(2 * rank * rows * width * vector.shape[1] for vector in given.vectors)


def _bytes(given: Any) -> int:
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(given))


def _result(given: Given) -> int:
    _, _, rows, width = given.sizes
    return rows * width * given.vectors[0].dtype.itemsize

"""The least that grouped products must do, from shapes alone."""

from typing import Any

from fusekit_modules.ops.floor import Floor


def forward(rows: Any, weights: Any) -> Floor:
    """One product a row; rows and weights are read once."""
    return _floor(1, rows, weights)


def backward(rows: Any, weights: Any) -> Floor:
    """Two products a row; what is read has its gradient written."""
    return _floor(2, rows, weights)


def _floor(products: int, rows: Any, weights: Any) -> Floor:
    (count, width), out = rows.shape, weights.shape[2]
    moved = rows.size + count * out
    size = rows.dtype.itemsize
    return Floor(
        products * 2 * count * width * out,
        products * (moved * size + weights.size * weights.dtype.itemsize),
    )

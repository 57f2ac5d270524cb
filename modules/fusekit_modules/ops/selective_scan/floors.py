"""The least that a selective scan must do, from shapes alone."""

from typing import Any

from fusekit_modules.ops.floor import Floor
from fusekit_modules.ops.selective_scan.form import Given

FORWARD, BACKWARD = 6, 18
"""Operations for each token, channel and size of the state. Forward: delta · a, the decay times
the state, the input times B, their sum, C times the state, and its sum. Backward the first four
again; two each for the gradients of the state, B, C, the input, delta and a; one each for the decay
of the state's gradient and for what the decay gets."""


def forward(given: Given) -> Floor:
    """Tokens are read and written once; the products of tokens alone are not counted."""
    return _floor(FORWARD, _bytes(given) + _size(given.x) + _size(given.state), given)


def backward(given: Given) -> Floor:
    """Tokens and the gradient are read once, and gradients of all that is given are written."""
    return _floor(BACKWARD, 2 * _bytes(given) + _size(given.x) + _size(given.state), given)


def _floor(each: int, moved: int, given: Given) -> Floor:
    states = given.x.size * given.a.shape[0]
    return Floor(each * states, moved, states)


def _bytes(given: Given) -> int:
    return sum(_size(array) for array in given if array is not None)


def _size(array: Any) -> int:
    return array.size * array.dtype.itemsize

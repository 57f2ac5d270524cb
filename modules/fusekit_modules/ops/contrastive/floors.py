"""The least that contrasts must do, from shapes alone."""

from fusekit_modules.ops.contrastive.scores import Operands
from fusekit_modules.ops.floor import Floor


def forward(given: Operands) -> Floor:
    """One product a score; vectors are read once, results are a number a row and a column."""
    return Floor(_product(given), _bytes(given) + 4 * _ends(given))


def backward(given: Operands) -> Floor:
    """Three products a score, one of which makes the scores again; vectors are read and their
    gradients written."""
    return Floor(3 * _product(given), 2 * _bytes(given) + 16 * _ends(given))


def _product(given: Operands) -> int:
    products, columns, width = given.y.shape
    return 2 * products * given.x.shape[0] * columns * width


def _bytes(given: Operands) -> int:
    return sum(array.size * array.dtype.itemsize for array in (given.x, given.y))


def _ends(given: Operands) -> int:
    return given.x.shape[0] + given.y.shape[1]

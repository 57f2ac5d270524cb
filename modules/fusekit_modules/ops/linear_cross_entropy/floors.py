"""The least that cross-entropy over a vocabulary must do, from shapes alone."""

from fusekit_modules.ops.floor import Floor
from fusekit_modules.ops.linear_cross_entropy.given import Linear


def forward(given: Linear) -> Floor:
    """One product and an exponential a logit; features and kernel are read once, results are two
    numbers a row."""
    rows, width, vocabulary = _sizes(given)
    return Floor(
        2 * rows * width * vocabulary, _bytes(given) + 8 * rows, exponentials=rows * vocabulary
    )


def backward(given: Linear) -> Floor:
    """Three products, one of which makes the logits again; what is read has its gradient."""
    rows, width, vocabulary = _sizes(given)
    return Floor(
        6 * rows * width * vocabulary, 2 * _bytes(given) + 16 * rows, exponentials=rows * vocabulary
    )


def _sizes(given: Linear) -> tuple[int, int, int]:
    return (*given.features.shape, given.kernel.shape[1])


def _bytes(given: Linear) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in given if leaf is not None)

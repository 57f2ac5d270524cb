"""The least that the recurrence must do, from shapes alone."""

from jaxtyping import Array

from fusekit_modules.ops.floor import Floor


def forward(x: Array, decay: Array, into: Array, out: Array) -> Floor:
    """A state of `p x n` numbers a head is added to and read at every token; every array is read
    or written once. Chunks do more arithmetic than this, as matrix products."""
    batch, time, heads, size = x.shape
    products = 2 * 2 * batch * time * heads * size * into.shape[-1]
    moved = _bytes(x) * 2 + _bytes(decay) + _bytes(into) + _bytes(out)
    return Floor(products, moved, decay.size)


def backward(x: Array, decay: Array, into: Array, out: Array) -> Floor:
    """Twice the products; what was given and the gradient of the results are read, and gradients
    of all that was given written."""
    first = forward(x, decay, into, out)
    moved = _bytes(x) * 3 + 2 * (_bytes(decay) + _bytes(into) + _bytes(out))
    return Floor(2 * first.flops, moved, decay.size)


def _bytes(array: Array) -> int:
    return array.size * array.dtype.itemsize

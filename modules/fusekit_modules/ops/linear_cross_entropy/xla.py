"""Chunks of the vocabulary: no more than `ELEMENTS` logits at once, made again for the gradient.

Chunks of rows would have the gradient of the whole kernel go through memory for each of them. Of
chunks of the vocabulary each writes its own part of it, once; what goes through memory is the
gradient of the features, and with it fewer bytes a FLOP than chips need to wait for.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fusekit_modules.ops.linear_cross_entropy.given import Ends, Linear

ELEMENTS = 1 << 22
"""Logits of a chunk: 16 MiB of them in float32, which compilers for TPUs keep on the chip."""
LEAST, LANES = 512, 128
"""Words of a chunk: the fewest, and what they are a multiple of."""


def chunks(rows: int, vocabulary: int, size: int | None = None) -> tuple[int, int]:
    """How many words a chunk has, and how many whole chunks there are before the last, which may be
    smaller. Of rows whose number is not known, as in a program that is exported for any, a chunk
    has the fewest words."""
    if size is None:
        known = isinstance(rows, int)
        size = max(ELEMENTS // max(rows, 1), LEAST) if known else LEAST
        count = -(-vocabulary // size)
        size = -(-vocabulary // count // LANES) * LANES
    size = min(size, vocabulary)
    return size, (vocabulary - 1) // size


def forward(given: Linear, target: Int[Array, "n"], *, chunk: int | None = None) -> Ends:
    """As `reference.forward`, with running maxima (Milakov & Gimelshein 2018, algorithm 3)."""
    rows = given.features.shape[0]

    def one(ends: Any, at: Any, size: int) -> Any:
        most, total, own = ends
        logits, mine = _logits(given, target, at, size)
        peak = jnp.maximum(most, jnp.max(logits, axis=1))
        mass = jnp.sum(jnp.exp(logits - peak[:, None]), axis=1)
        own = own + jnp.sum(jnp.where(mine, logits, 0), axis=1)
        return peak, total * jnp.exp(most - peak) + mass, own

    zeros = jnp.zeros(rows, given.wide)
    first = jnp.full(rows, jnp.finfo(given.wide).min), zeros, zeros
    most, total, own = _over(given, chunk, one, first)
    return most + jnp.log(total), own


def backward(
    given: Linear, target: Int[Array, "n"], total: Array, grads: Ends, *, chunk: int | None = None
) -> Linear:
    """As `reference.backward`. The target's share is taken off before anything is rounded."""

    def one(sums: Linear, at: Any, size: int) -> Linear:
        logits, mine = _logits(given, target, at, size)
        slope = grads[0][:, None] * jnp.exp(logits - total[:, None])
        slope = slope + jnp.where(mine, grads[1][:, None], 0)
        narrow, kernel = slope.astype(given.features.dtype), _kernel(given, at, size)
        by_features = _product(narrow, kernel, (1, 1), given.wide)
        by_kernel = _product(given.features, narrow, (0, 0), given.wide)
        bias = sums.bias
        if bias is not None:
            bias = lax.dynamic_update_slice_in_dim(bias, jnp.sum(slope, axis=0), at, axis=0)
        part = by_kernel.astype(sums.kernel.dtype)
        return Linear(
            sums.features + by_features,
            lax.dynamic_update_slice_in_dim(sums.kernel, part, at, axis=1),
            bias,
        )

    first = Linear(
        jnp.zeros(given.features.shape, given.wide),
        jnp.zeros_like(given.kernel),
        None if given.bias is None else jnp.zeros(given.bias.shape, given.wide),
    )
    return given.like(*_over(given, chunk, one, first))


def _over(given: Linear, chunk: int | None, one: Callable[[Any, Any, int], Any], first: Any) -> Any:
    """Folds `one(carry, first word, words)` over the chunks."""
    vocabulary = given.kernel.shape[1]
    size, whole = chunks(given.features.shape[0], vocabulary, chunk)
    if whole:
        starts = size * jnp.arange(whole, dtype=jnp.int32)
        first, _ = lax.scan(lambda carry, at: (one(carry, at, size), None), first, starts)
    return one(first, size * whole, vocabulary - size * whole)


def _kernel(given: Linear, at: Any, size: int) -> Float[Array, "d c"]:
    part = lax.dynamic_slice_in_dim(given.kernel, at, size, axis=1)
    return part.astype(given.features.dtype)


def _logits(given: Linear, target: Array, at: Any, size: int) -> tuple[Array, Array]:
    """Logits of a chunk, and which of them are the targets'."""
    logits = _product(given.features, _kernel(given, at, size), (1, 0), given.wide)
    if given.bias is not None:
        bias = lax.dynamic_slice_in_dim(given.bias, at, size)
        logits = logits + bias.astype(given.wide)
    words = at + jnp.arange(size, dtype=target.dtype)
    return logits, target[:, None] == words


def _product(a: Array, b: Array, over: tuple[int, int], wide: Any) -> Array:
    axes = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, axes, preferred_element_type=wide)

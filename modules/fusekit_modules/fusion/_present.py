"""Arithmetic over the modalities that a sample has: what the fusions here share.

Absent contents become zeros before any arithmetic, and no weight ever falls on them.
"""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.stream import Stream, any_present, presence_matrix


def read(streams: Mapping[str, Stream]) -> tuple[list[Float[Array, "b d"]], Bool[Array, "b m"]]:
    """The vectors, zero where absent, and which samples have which of them."""
    given = list(streams.values())
    present = presence_matrix(given)
    if present is None:
        present = jnp.ones((given[0].batch, len(given)), bool)
    return [stream.clean().values for stream in given], present


def emit(values: Float[Array, "b *d"], streams: Iterable[Stream]) -> Stream:
    """A stream that is present where any of `streams` is, and zero elsewhere."""
    return Stream(values, presence=any_present(streams)).clean()


def masked_mean(values: Float[Array, "b m *d"], where: Bool[Array, "b m"]) -> Float[Array, "b *d"]:
    """Mean over the second axis' true entries; zeros if none is true."""
    full = where.reshape(where.shape + (1,) * (values.ndim - 2))
    count = jnp.maximum(jnp.sum(where, axis=1), 1).astype(values.dtype)
    total = jnp.sum(jnp.where(full, values, 0.0), axis=1)
    return total / count.reshape(count.shape + (1,) * (values.ndim - 2))


def choose(
    present: Bool[Array, "b"], values: Float[Array, "b *d"], otherwise: Float[Array, "*d"] | float
) -> Float[Array, "b *d"]:
    """`values` in the samples that are present, `otherwise` elsewhere."""
    full = present.reshape(present.shape + (1,) * (values.ndim - 1))
    return jnp.where(full, values, otherwise)


def weighted(weights: Float[Array, "b *d m"], values: Float[Array, "b m d"]) -> Float[Array, "b d"]:
    """Sum over modalities; the weights `[b, m]`, or `[b, d, m]` by unit, are 0 for the absent."""
    weights = weights.astype(values.dtype)
    if weights.ndim == 2:
        return jnp.einsum("bm,bmd->bd", weights, values)
    return jnp.einsum("bdm,bmd->bd", weights, values)

"""Positions that are added to tokens: learned, or sines."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fusekit.parameter import parameter


class LearnedPositions(nnx.Module):
    """One learned vector for each place of a sequence, spans one after another: every modality
    has its own part of the table."""

    def __init__(self, length: int, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.table = parameter(rngs, init, (length, width), ("time", "embed"))

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return x + self.table[...].astype(x.dtype)


def sinusoidal(
    positions: Int[Array, "*b t"],
    width: int,
    *,
    slowest: bool = False,
    dtype: jnp.dtype | type = jnp.float32,
) -> Float[Array, "*b t d"]:
    """sin(p / 10000^(2 i / width)) for the first half of the channels and cos for the second
    (Vaswani et al. 2017, section 3.5, with halves in place of turns); an odd last one is 0.

    With `slowest` the exponents reach 1, i / (width / 2 - 1), as in tensor2tensor and fairseq.
    """
    kind = jnp.promote_types(dtype, jnp.float32)
    half = width // 2
    rates = 10000.0 ** (-jnp.arange(half, dtype=kind) / max(half - slowest, 1))
    angles = positions[..., None].astype(kind) * rates
    table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    if width % 2:
        table = jnp.concatenate([table, jnp.zeros((*table.shape[:-1], 1), kind)], axis=-1)
    return table.astype(dtype)

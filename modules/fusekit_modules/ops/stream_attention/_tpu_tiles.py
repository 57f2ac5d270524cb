"""What the TPU kernels share: products, and tiles of which lanes belong to heads."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fusekit_modules.ops.stream_attention.form import Form

LANES = 128


def dot(form: Form, a: Array, b: Array, dimensions: tuple[int, int]) -> Array:
    """Product over one axis of each, summed in float32; float32 is not rounded to bfloat16."""
    if form.interpret:  # a CPU cannot sum all products of bfloat16 in float32
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.dot_general(
        a,
        b,
        (((dimensions[0],), (dimensions[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def of_head(tile: Array, head: int, heads: int, scale: float = 1.0) -> Array:
    """`[t, heads·d]`, zero for all heads but one, so that products over all lanes are the head's:
    lanes need not be moved, and the unit multiplies 128 of them in any case."""
    wide = tile.astype(jnp.float32)
    wide = wide if scale == 1.0 else wide * scale
    if heads > 1:
        dim = tile.shape[1] // heads
        lane = jax.lax.broadcasted_iota(jnp.int32, tile.shape, 1)
        wide = jnp.where((lane >= head * dim) & (lane < (head + 1) * dim), wide, 0.0)
    return wide.astype(tile.dtype)


def exact(scale: float) -> bool:
    """Whether a multiple by it is never rounded: a power of two."""
    return abs(scale).hex().split("p")[0] == "0x1.0000000000000"


def column(mask: Array) -> Array:
    """`[1, k]` as `[k, 1]`."""
    return jnp.broadcast_to(mask, (8, mask.shape[1])).T[:, :1]


def clean(tile: Array, there: Array | None) -> Array:
    """`[t, w]` with zeros where the column `there` is not positive."""
    if there is None:
        return tile
    return jnp.where(there > 0, tile.astype(jnp.float32), 0.0).astype(tile.dtype)


def flip(tile: Array) -> Array:
    """Transposed; of 32 bits on the way, which the unit can turn everywhere."""
    return tile.astype(jnp.float32).T.astype(tile.dtype)

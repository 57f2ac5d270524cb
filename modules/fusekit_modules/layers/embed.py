"""Embeddings: codes by a table, grids by patches."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fusekit.parameter import parameter
from fusekit_modules.layers.linear import Linear


class TokenEmbed(nnx.Module):
    """A learned vector for each code."""

    def __init__(self, classes: int, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.table = parameter(rngs, init, (classes, width), ("vocab", "embed"))

    def __call__(
        self, codes: Int[Array, "b *n"], *, dtype: jnp.dtype | type = jnp.float32
    ) -> Float[Array, "b *n d"]:
        return jnp.take(self.table[...].astype(dtype), codes, axis=0, mode="clip")


def cut_patches(x: Float[Array, "b *grid c"], patch: Sequence[int]) -> Float[Array, "b t p"]:
    """Non-overlapping patches of a grid of any number of axes, in row-major order; a patch's
    values are flattened in the order of its axes, channels last. Sizes must divide."""
    batch, grid, channels = x.shape[0], x.shape[1:-1], x.shape[-1]
    counts = [size // p for size, p in zip(grid, patch, strict=True)]
    split = [n for pair in zip(counts, patch, strict=True) for n in pair]
    axes = len(patch)
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    x = x.reshape(batch, *split, channels).transpose(order)
    return x.reshape(batch, math.prod(counts), math.prod(patch) * channels)


def patch_mask(
    mask: Bool[Array, "b n"], patch: Sequence[int], counts: Sequence[int]
) -> Bool[Array, "b t"]:
    """Patches of which something is valid, from a mask of the first grid axis."""
    any_valid = jnp.any(mask.reshape(mask.shape[0], counts[0], patch[0]), axis=-1)
    return jnp.repeat(any_valid, math.prod(counts[1:]), axis=1)


class PatchEmbed(nnx.Module):
    """A linear map of each patch of an image, a spectrogram, a signal or (as tubelets) a video
    (Dosovitskiy et al. 2021, equation 1; Arnab et al. 2021, section 3.2)."""

    def __init__(self, channels: int, patch: Sequence[int], width: int, *, rngs: nnx.Rngs):
        self.patch = tuple(patch)
        size = math.prod(self.patch) * channels
        self.proj = Linear(size, width, axes=("features", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "b *grid c"]) -> Float[Array, "b t d"]:
        return self.proj(cut_patches(x, self.patch))

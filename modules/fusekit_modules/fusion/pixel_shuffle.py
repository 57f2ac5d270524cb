"""Neighbouring tokens of a grid side by side in one."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    Grid,
    Sizes,
    data,
    grid_of,
    joined,
    joined_signature,
    made,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.layers.embed import cut_patches
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP


@register
class PixelShuffleSpec(CompressorSpec):
    """The tokens of each window of a grid lie side by side in one wider token, which is projected:
    space to depth (Shi et al. 2016, section 3.2, backwards), as between the vision and the language
    model of InternVL 1.5 (Chen et al. 2024).

    Readout tokens are left out. A padded token is zeros in its window; a window of padding alone is
    padding. An absent grid is absent.
    """

    type: Literal["pixel_shuffle"] = "pixel_shuffle"
    window: Sizes = Field((2, 2), min_length=1, max_length=3, description="sizes of a window")
    hidden: Width | None = Field(None, description="width within an mlp; default one affine map")
    source: Sizes = Field((), description="the grid's sizes, if the input does not know them")

    def grid(self, reads: Signatures) -> Grid:
        """The grid of the input. Raises `WiringError` if windows do not divide it."""
        given = joined_signature(reads)
        grid = grid_of(given, self.source, next(iter(reads)))
        sizes = [size for _, size in grid]
        fits = len(sizes) == len(self.window)
        if not fits or any(n % w for n, w in zip(sizes, self.window, strict=True)):
            raise WiringError(
                "the windows do not divide the grid",
                found=f"windows {' x '.join(map(str, self.window))}",
                expected=f"divisors of {' x '.join(map(str, sizes))}",
                field=("window",),
            )
        return grid

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        pairs = zip(self.grid(reads), self.window, strict=True)
        grid = tuple((axis, size // each) for (axis, size), each in pairs)
        length = math.prod(size for _, size in grid)
        return made(joined_signature(reads), length, width, grid=grid)

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "PixelShuffle":
        return PixelShuffle(self, reads, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        grid = {"source": [2, 3], "window": [2, 1]}
        return [grid, {**grid, "hidden": 4}, {"source": [6], "window": [3]}]


class PixelShuffle(Inserting):
    """`[b, t, d] -> [b, t / r, r d] -> [b, t / r, width]` for windows of r tokens."""

    def __init__(self, spec: PixelShuffleSpec, reads: Signatures, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        self.window, out = spec.window, spec.infer_tokens(reads, width)
        self.sizes = tuple(size for _, size in spec.grid(reads))
        self.spans, self.grid = out.spans, out.grid
        wide = joined_signature(reads).width * math.prod(spec.window)
        self.proj = (
            Linear(wide, width, axes=("features", "embed"), rngs=rngs)
            if spec.hidden is None
            else MLP(wide, spec.hidden, outputs=width, rngs=rngs)
        )

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        x = data(joined(streams))
        values = cut_patches(x.values.reshape(x.batch, *self.sizes, x.width), self.window)
        mask = x.mask
        if mask is not None:
            each = cut_patches(mask.reshape(x.batch, *self.sizes, 1), self.window)
            mask = jnp.any(each, axis=-1)
        out = Stream(self.proj(values), mask, x.presence, spans=self.spans, grid=self.grid)
        return out.clean()

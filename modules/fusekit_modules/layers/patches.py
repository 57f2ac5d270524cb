"""How a stack takes in a grid: cut into patches, which become tokens."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, sequence
from fusekit_modules.layers.embed import PatchEmbed, patch_mask
from fusekit_modules.layers.entry import Tokens, only, spans_of
from fusekit_modules.layers.readout import with_readouts

Patch = tuple[int, ...]


def patch_grid(inputs: Signature, patch: Patch) -> tuple[tuple[str, int], ...]:
    """Patches along each axis. With as many patch sizes as axes there is no channel axis; with
    one fewer the last axis holds channels. Raises `WiringError` for what does not fit."""
    if inputs.dtype != "float" or inputs.kind not in ("grid", "sequence"):
        raise WiringError(
            f"a {inputs.kind} of {inputs.dtype} values cannot be cut into patches",
            found=inputs,
            expected="an image, a spectrogram, a video or a signal",
            field=("input",),
        )
    axes = inputs.sizes[: len(patch)]
    if len(patch) not in (len(inputs.sizes), len(inputs.sizes) - 1):
        raise WiringError(
            "the number of patch sizes does not fit",
            found=f"{len(patch)} sizes for {inputs}",
            expected=f"{max(len(inputs.sizes) - 1, 1)} sizes",
            field=("patch",),
        )
    for (axis, size), each in zip(axes, patch, strict=True):
        if size % each:
            raise WiringError(
                f"patches do not divide the {axis}",
                found=f"{axis} {size}, patch {each}",
                expected=f"a divisor of {size}",
                field=("patch",),
            )
    return tuple((axis, size // each) for (axis, size), each in zip(axes, patch, strict=True))


def infer_patches(inputs: Signature, patch: Patch, width: int, readout: int) -> Signature:
    """What `PatchEntry` gives. Raises `WiringError`."""
    grid = patch_grid(inputs, patch)
    length = math.prod(count for _, count in grid)
    tokens = sequence(
        length,
        width,
        spans=spans_of(inputs, length),
        padded=inputs.padded,
        optional=inputs.optional,
        grid=grid,
    )
    return with_readouts(tokens, readout)


class PatchEntry(Tokens):
    """Patches of a grid as tokens in row-major order. A patch is valid if any frame in it is.

    Args:
      inputs: what comes in; `patch` as in `patch_grid`; the rest as `Tokens`.
    """

    def __init__(
        self, inputs: Signature, patch: Patch, width: int, *, rngs: nnx.Rngs, **settings: Any
    ):
        tokens = infer_patches(inputs, patch, width, 0)
        super().__init__(tokens.length, width, rngs=rngs, **settings)
        self.grid, self.spans, self.patch = tokens.grid, tokens.spans, tuple(patch)
        self.channelled = len(inputs.sizes) > len(patch)
        channels = inputs.width if self.channelled else 1
        self.patches = PatchEmbed(channels, patch, width, rngs=rngs)

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        values = stream.values if self.channelled else jnp.expand_dims(stream.values, -1)
        mask = stream.mask
        if mask is not None:
            mask = patch_mask(mask, self.patch, [count for _, count in self.grid])
        tokens = Stream(
            self.patches(values), mask, stream.presence, spans=self.spans, grid=self.grid
        )
        return self.finish(tokens, context=context)

"""A map: logits or values at each position of a grid."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.heads._readout import FIELD, Readout, ReadoutSpec
from fusekit_modules.heads._tokens import data_signature
from fusekit_modules.modalities._classes import Classes, count_of, names_of

Size = Annotated[tuple[Count, Count], Field(description="height and width")]
Sizes = tuple[tuple[str, int], ...]


@register
class DenseSpec(ReadoutSpec):
    """Logits of `classes`, or `channels` values, at each position of a grid `[*sizes, channel]`.

    Tokens that were cut from a grid are put back where they came from; learned readout tokens are
    left out. With `size` the last two axes are brought to it by linear interpolation between the
    centres of positions, and beyond the outermost centres by the nearest (half-pixel centres).
    """

    type: Literal["dense"] = "dense"
    classes: Classes | None = Field(None, description="how many classes there are, or their names")
    channels: Width | None = Field(None, description="how many numbers, in place of classes")
    size: Size | None = Field(None, description="of what comes out, at least that of the grid")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x", "classes": 3, "size": [12, 8]}, {"input": "x", "channels": 2}]

    def out_width(self) -> int:
        return self.channels or count_of(self.classes or 1)

    def names(self) -> tuple[str, ...]:
        return names_of(self.classes or 1)

    def infer(self, inputs: Signatures) -> Outputs:
        """A grid. Raises `WiringError` for what is none, and was none."""
        if (self.classes is None) == (self.channels is None):
            raise WiringError(
                "logits of classes or values are due, and one of them",
                found=f"classes {self.classes}, channels {self.channels}",
                expected="classes, or channels",
                field=("classes",),
            )
        given = data_signature(inputs["input"])
        sizes = self._sized(given, grid_of(given))
        spans = given.spans if given.kind == "grid" else ()
        full = (*sizes, ("channel", self.out_width()))
        return given.with_(sizes=full, spans=spans, grid=(), names=self.names())

    def _sized(self, given: Signature, grid: Sizes) -> Sizes:
        """The grid's sizes, the last two as declared."""
        if self.size is None:
            return grid
        if len(grid) < 2 or any(new < old for new, (_, old) in zip(self.size, grid[-2:])):  # noqa: B905
            raise WiringError(
                "size is less than that of the grid" if len(grid) > 1 else "there is one axis only",
                found=" x ".join(f"{axis} {size}" for axis, size in grid),
                expected="at least the grid's height and width",
                field=("size",),
            )
        if given.padded and len(grid) == 2:
            raise WiringError(
                "an axis with padding cannot be resized: its length differs by sample",
                found=given,
                expected="no size",
                field=("size",),
            )
        axes = [axis for axis, _ in grid[-2:]]
        return (*grid[:-2], *zip(axes, self.size, strict=True))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Dense":
        return Dense(self, data_signature(inputs["input"]), rngs=rngs)


def grid_of(given: Signature) -> Sizes:
    """The axes of a map of features, or of the grid that tokens came from. Raises `WiringError`."""
    if given.dtype == "float" and given.kind == "grid" and given.axes[-1] == "channel":
        return given.sizes[:-1]
    flat = given.axes == ("time", "embed") and math.prod(n for _, n in given.grid) == given.length
    if given.dtype == "float" and flat and given.grid:
        return given.grid
    raise WiringError(
        "'input' is no grid, and its tokens were not cut from one",
        found=given,
        expected="a feature map, or the tokens of one image, spectrogram or video",
        field=FIELD,
    )


class Dense(Readout):
    """`[b, *n, d]`, or tokens `[b, t, d]` -> `[b, *n', o]`."""

    def __init__(self, spec: DenseSpec, given: Signature, *, rngs: nnx.Rngs):
        super().__init__(spec, given.width, rngs=rngs)
        self.counts, self.size = tuple(size for _, size in grid_of(given)), spec.size

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        given = super().__call__(streams, context=context)
        flat = given.values.ndim == 3
        values, mask = given.values, given.mask
        if flat:
            values = values.reshape(values.shape[0], *self.counts, -1)
            mask = None if mask is None else _first(mask, self.counts)
        if self.size is not None:
            sizes = (*values.shape[:-3], *self.size, values.shape[-1])
            values = resized(values, sizes)
        spans = () if flat else given.spans
        return Stream(values, mask, given.presence, spans=spans).clean()


def _first(mask: Bool[Array, "b t"], counts: tuple[int, ...]) -> Bool[Array, "b n"]:
    """Of tokens, which positions of the grid's first axis have any that is valid."""
    return jnp.any(mask.reshape(mask.shape[0], counts[0], -1), axis=2)


def resized(values: Float[Array, "b *n c"], shape: tuple[int, ...]) -> Float[Array, "b *m c"]:
    """Larger, by bilinear interpolation; statistics in float32 at least."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return jax.image.resize(wide, shape, "bilinear").astype(values.dtype)

"""Another resolution for tokens of a grid, and several grids as one."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, Span, Stream, all_present
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    Sizes,
    data,
    fitted,
    flat,
    flat_signature,
    grid_of,
    label_of,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.layers.expect import expect_count
from fusekit_modules.layers.wide import wide


@register
class ResizeSpec(CompressorSpec):
    """Tokens of a grid interpolated to another grid, linearly along each axis (bilinear) between
    the centres of tokens. Those of several inputs lie side by side in their channels, whatever
    their grids and widths: Eagle's fusion of encoders (Shi et al. 2024).

    Readout tokens are left out. Padding has no weight; where nothing has any, or where one of the
    inputs is absent or padding, a token is padding or absent.
    """

    type: Literal["resize"] = "resize"
    grid: Sizes = Field(min_length=1, max_length=3, description="sizes of the grid to come")
    source: Sizes = Field((), description="the grids' sizes, if the inputs do not know them")

    def out_width(self, inputs: Signatures) -> int:
        return self.width or sum(read.width for read in self.flat(inputs).values())

    def flat(self, reads: Signatures) -> dict[str, Signature]:
        expect_count(reads)
        return {role: flat_signature(read, role) for role, read in reads.items()}

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """Raises `WiringError` for what was no grid of as many axes."""
        flat = self.flat(reads)
        grids = [grid_of(read, self.source, role) for role, read in flat.items()]
        if uneven := [grid for grid in grids if len(grid) != len(self.grid)]:
            found, due = f"{len(self.grid)} sizes", f"{len(uneven[0])} sizes"
            raise WiringError("the grid has other axes", found=found, expected=due, field=("grid",))
        given, length = list(flat.values()), math.prod(self.grid)
        return given[0].with_(
            sizes=(("time", length), ("embed", width)),
            spans=(Span(label_of([span for read in given for span in read.spans]), length),),
            padded=any(read.padded for read in given),
            optional=any(read.optional for read in given),
            grid=tuple((axis, n) for (axis, _), n in zip(grids[0], self.grid, strict=True)),
        )

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "Resize":
        return Resize(self, reads, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"grid": [3, 2], "source": [2, 3]}, {"grid": [4], "source": [6]}]


class Resize(Inserting):
    """`[b, t_k, d_k]` each -> `[b, n, sum(d_k)]`, projected where a width is due."""

    def __init__(self, spec: ResizeSpec, reads: Signatures, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        out = spec.infer_tokens(reads, width)
        self.spans, self.grid, self.after = out.spans, out.grid, spec.grid
        grids = [grid_of(read, spec.source, role) for role, read in spec.flat(reads).items()]
        self.before = tuple(tuple(size for _, size in grid) for grid in grids)
        self.proj = fitted(sum(read.width for read in reads.values()), width, rngs=rngs)

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        given = [data(flat(stream, role)) for role, stream in streams.items()]
        values, masks = [], []
        for stream, sizes in zip(given, self.before, strict=True):
            each = self.resized(wide(stream.values), sizes)
            if stream.mask is not None:
                weight = self.resized(stream.mask[..., None].astype(each.dtype), sizes)
                masks.append(weight[..., 0] > 0)
                each = each / jnp.where(weight > 0, weight, 1)
            values.append(each.astype(stream.values.dtype))
        mask = jnp.all(jnp.stack(masks), axis=0) if masks else None
        presence, joined = all_present(given), jnp.concatenate(values, axis=-1)
        out = Stream(joined, mask, presence, spans=self.spans, grid=self.grid).clean()
        return out if self.proj is None else out.with_(values=self.proj(out.values)).clean()

    def resized(self, values: Array, sizes: Sizes) -> Float[Array, "b n d"]:
        out = values.reshape(values.shape[0], *sizes, values.shape[-1])
        for axis, (size, after) in enumerate(zip(sizes, self.after, strict=True), start=1):
            weights = jnp.asarray(linear(size, after), out.dtype)
            highest = jax.lax.Precision.HIGHEST
            out = jnp.tensordot(weights, out, axes=((1,), (axis,)), precision=highest)
            out = jnp.moveaxis(out, 0, axis)
        return out.reshape(out.shape[0], -1, out.shape[-1])


def linear(size: int, after: int) -> Float[np.ndarray, "m n"]:
    """Weights of linear interpolation from `size` points to `after`, of which point i stands at
    (i + 1/2) size / after - 1/2; beyond the ends the last point holds."""
    at = np.clip((np.arange(after) + 0.5) * size / after - 0.5, 0, size - 1)
    low = np.minimum(np.floor(at).astype(int), max(size - 2, 0))
    weights = np.zeros((after, size))
    weights[np.arange(after), low] = 1 - (at - low)
    weights[np.arange(after), np.minimum(low + 1, size - 1)] += at - low
    return weights

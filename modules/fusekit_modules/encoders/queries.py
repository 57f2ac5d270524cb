"""Learned queries."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, EncoderSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream, sequence
from fusekit_modules.layers.entry import only

AXES = ("time", "height", "width")


@register
class QueriesSpec(EncoderSpec):
    """Learned vectors as a sequence, the same for every sample: the object queries of DETR (Carion
    et al. 2020, section 3.2).

    Of `input` only the presence is read: queries are there where it is. A `transformer` over them
    with a `cross_attention` to an encoder is a DETR decoder; as many as patches, they are the mask
    tokens and positions of a masked autoencoder's decoder. With `grid` they are those of its
    places, row by row, which a `dense` head or a `conv_decoder` makes a map of again.
    """

    type: Literal["queries"] = "queries"
    count: Count | None = Field(None, description="how many; default 100, or one a place of `grid`")
    grid: tuple[Count, ...] = Field((), max_length=3, description="its sizes, in place of `count`")
    width: Width = Field(description="size of each")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"count": 3, "width": 4}, {"grid": [2, 3], "width": 4}]

    def infer(self, inputs: Signatures) -> Signature:
        """A sequence. Raises `WiringError` where both `count` and `grid` are given."""
        if self.grid and self.count is not None:
            message, due = "a grid says how many there are", "count or grid"
            raise WiringError(message, found=self.count, expected=due, field=("count",))
        length = math.prod(self.grid) if self.grid else self.count or 100
        sizes = tuple(zip(AXES[-len(self.grid) :], self.grid, strict=True)) if self.grid else ()
        return sequence(length, self.width, optional=only(inputs).optional, grid=sizes)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Queries":
        return Queries(self.infer(inputs), rngs=rngs)


class Queries(nnx.Module):
    """`[b, count, width]`."""

    def __init__(self, out: Signature, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.table = parameter(rngs, init, (out.length, out.width), (None, "embed"))
        self.spans, self.grid = out.spans, out.grid

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        given, table = only(streams), self.table[...].astype(context.dtype)
        values = jnp.broadcast_to(table, (given.batch, *table.shape))
        out = Stream(values, presence=given.presence, spans=self.spans, grid=self.grid)
        return out.clean()

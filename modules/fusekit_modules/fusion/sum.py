"""Addition."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.fusion._present import emit, masked_mean, read
from fusekit_modules.fusion._vectors import VectorFusionSpec, projections
from fusekit_modules.layers.expect import expect_same


@register
class SumSpec(VectorFusionSpec):
    """Adds vectors, each mapped to `width` first where that is given.

    An absent vector is left out (`skip`); with `renormalise` the rest is scaled up to stand for
    all: the mean of the present ones, times their full number.
    """

    type: Literal["sum"] = "sum"
    width: Width | None = Field(None, description="width to project to; default no projection")
    absent: Literal["skip", "renormalise"] = Field("skip", description="what absence means")

    def out_width(self, inputs: Signatures) -> int:
        return self.width or expect_same(inputs, "embed", hint="one width, or width: to project to")

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Sum":
        return Sum(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"absent": "renormalise", "width": 4}]


class Sum(nnx.Module):
    """`[b, d_1], [b, d_2], ... -> [b, width]`."""

    def __init__(self, spec: SumSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.absent = spec.absent
        self.project = projections(inputs if spec.width else {}, spec.width or 1, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        if self.project:
            values = [project(x) for project, x in zip(self.project, values, strict=True)]
        count = jnp.sum(present, axis=1)[:, None].astype(values[0].dtype)
        scale = count if self.absent == "skip" else len(values)
        return emit(masked_mean(jnp.stack(values, axis=1), present) * scale, streams.values())

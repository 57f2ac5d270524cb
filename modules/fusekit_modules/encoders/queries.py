"""Learned queries."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, EncoderSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream, sequence
from fusekit_modules.layers.entry import only


@register
class QueriesSpec(EncoderSpec):
    """Learned vectors as a sequence, the same for every sample: the object queries of DETR (Carion
    et al. 2020, section 3.2).

    Of `input` only the presence is read: queries are there where it is. A `transformer` over them
    with a `cross_attention` to an encoder is a DETR decoder; as many as patches, they are the mask
    tokens and positions of a masked autoencoder's decoder.
    """

    type: Literal["queries"] = "queries"
    count: Count = Field(100, description="how many")
    width: Width = Field(description="size of each")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"count": 3, "width": 4}]

    def infer(self, inputs: Signatures) -> Signature:
        return sequence(self.count, self.width, optional=only(inputs).optional)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Queries":
        return Queries(self, rngs=rngs)


class Queries(nnx.Module):
    """`[b, count, width]`."""

    def __init__(self, spec: QueriesSpec, *, rngs: nnx.Rngs):
        init, shape = nnx.initializers.normal(0.02), (spec.count, spec.width)
        self.table = parameter(rngs, init, shape, (None, "embed"))
        self.spans = sequence(*shape).spans

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        given, table = only(streams), self.table[...].astype(context.dtype)
        values = jnp.broadcast_to(table, (given.batch, *table.shape))
        return Stream(values, presence=given.presence, spans=self.spans).clean()

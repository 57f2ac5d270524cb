"""Embeds codes or features as tokens, without layers."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import EncoderSpec, Rate, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.embed import TokenEmbed
from fusekit_modules.layers.entry import Entry, infer_entry, only
from fusekit_modules.layers.linear import Linear


@register
class EmbedSpec(EncoderSpec):
    """Embeds codes, or projects features, as tokens for a trunk to process (early fusion).

    A sequence becomes a sequence, with positions and readout tokens; a single class or number
    becomes a vector.
    """

    type: Literal["embed"] = "embed"
    width: Width = Field(description="size of the tokens")
    positions: Literal["learned", "sinusoidal", "keep"] = Field(
        "learned", description="what is added to the tokens; keep adds none"
    )
    readout: int = Field(0, ge=0, le=1000, description="learned readout tokens before the others")
    dropout: Rate = Field(0.0, description="of the embeddings")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 8}, {"width": 8, "positions": "sinusoidal", "readout": 2}]

    def infer(self, inputs: Signatures) -> Signature:
        given = only(inputs)
        if given.kind != "scalar":
            return infer_entry(given, self.width, self.readout)
        if self.readout:
            raise WiringError(
                "a single class or number has no readout tokens",
                found=given,
                expected="readout 0, or a sequence",
                field=("readout",),
            )
        if given.dtype != "float" and given.classes is None:
            raise WiringError(
                "codes of an unknown number of classes", found=given, field=("input",)
            )
        return Signature((("embed", self.width),), optional=given.optional)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Entry | EmbedScalar":
        given = only(inputs)
        self.infer(inputs)
        if given.kind == "scalar":
            return EmbedScalar(self, given, rngs=rngs)
        return Entry(
            given,
            self.width,
            positions=self.positions,
            readout=self.readout,
            dropout=self.dropout,
            rngs=rngs,
        )


class EmbedScalar(nnx.Module):
    """See `EmbedSpec`; for one class or number a sample."""

    def __init__(self, spec: EmbedSpec, given: Signature, *, rngs: nnx.Rngs):
        self.codes = given.dtype != "float"
        self.embed = (
            TokenEmbed(given.classes or 1, spec.width, rngs=rngs)
            if self.codes
            else Linear(1, spec.width, axes=("features", "embed"), rngs=rngs)
        )

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        if isinstance(self.embed, TokenEmbed):
            values = self.embed(stream.values, dtype=context.dtype)
        else:
            values = self.embed(jnp.expand_dims(stream.values, -1))
        return stream.with_(values=values)

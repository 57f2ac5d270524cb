"""Cuts a grid into patches and embeds them as tokens, without layers."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Count, EncoderSpec, Rate, Signatures, Width, register
from fusekit.stream import Signature
from fusekit_modules.layers.entry import only
from fusekit_modules.layers.patches import PatchEntry, infer_patches


@register
class PatchesSpec(EncoderSpec):
    """Patches of an image, spectrogram, video or signal as tokens for a trunk (early fusion).

    A linear map of each patch (Dosovitskiy et al. 2021, equation 1) and positions.
    """

    type: Literal["patches"] = "patches"
    width: Width = Field(description="size of the tokens")
    patch: tuple[Count, ...] = Field(
        min_length=1, max_length=3, description="patch size along each axis but the channels"
    )
    positions: Literal["learned", "sinusoidal", "keep"] = Field(
        "learned", description="what is added to the tokens; keep adds none"
    )
    readout: int = Field(0, ge=0, le=1000, description="learned readout tokens before the others")
    dropout: Rate = Field(0.0, description="of the embeddings")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 8, "patch": (2, 2)}]

    def infer(self, inputs: Signatures) -> Signature:
        return infer_patches(only(inputs), self.patch, self.width, self.readout)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> PatchEntry:
        self.infer(inputs)
        return PatchEntry(
            only(inputs),
            self.patch,
            self.width,
            positions=self.positions,
            readout=self.readout,
            dropout=self.dropout,
            rngs=rngs,
        )

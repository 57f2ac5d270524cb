"""The transformer over patches of a grid."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Count, Signatures, Width, register
from fusekit.stream import Signature
from fusekit_modules.encoders._blocks import BlocksSpec
from fusekit_modules.layers.entry import only
from fusekit_modules.layers.patches import PatchEntry, infer_patches


@register
class VitSpec(BlocksSpec):
    """Vision transformer over patches of an image, a spectrogram, a video or a signal.

    Dosovitskiy et al. 2021 for images; Gong et al. 2021 for spectrograms; tubelets of videos as
    in Arnab et al. 2021. The grid's sizes stay known, so dense heads can undo the flattening.
    """

    type: Literal["vit"] = "vit"
    width: Width = Field(description="size of the tokens")
    patch: tuple[Count, ...] = Field(
        min_length=1, max_length=3, description="patch size along each axis but the channels"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"depth": 2, "width": 8, "heads": 2, "patch": (2, 2)}
        return [
            small,
            {**small, "readout": 1, "positions": "sinusoidal", "drop_path": 0.2},
            {**small, "mixer": "ssd", "scan": {"states": 3}, "readout": 1},
        ]

    def infer_start(self, inputs: Signatures) -> Signature:
        return self.checked(infer_patches(only(inputs), self.patch, self.width, self.readout))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> PatchEntry:
        self.infer_start(inputs)
        return PatchEntry(
            only(inputs),
            self.patch,
            self.width,
            positions="learned" if self.positions == "auto" else self.positions,
            readout=self.readout,
            dropout=self.dropout,
            rngs=rngs,
        )

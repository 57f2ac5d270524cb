"""The transformer over tokens."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit.stream import Signature
from fusekit_modules.encoders._blocks import BlocksSpec
from fusekit_modules.layers.entry import Entry, infer_entry, only


@register
class TransformerSpec(BlocksSpec):
    """Pre-norm transformer over codes, features, or the tokens of other nodes (a trunk).

    Vaswani et al. 2017; pre-norm as in Xiong et al. 2020. Codes are embedded; features of another
    width are projected. The spans of what comes in are kept, and readout tokens stand before
    them. With `causal`, readout tokens read all tokens and no other token reads them. `attend`
    says it over labels and positions. With `mixer: ssd` layers scan over time in place of
    attention (Mamba-2, Dao and Gu 2024), with `mixer: selective` also (Mamba-1, Gu and Dao
    2023), both ways unless `causal`; a list of mixers repeats.
    """

    type: Literal["transformer"] = "transformer"
    width: Width | None = Field(None, description="size of the tokens; default that of the input")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"depth": 2, "width": 8, "heads": 2}
        return [
            {**small, "readout": 1},
            {**small, "positions": "rotary", "causal": True, "norm": "rms", "readout": 1},
            {**small, "positions": "sinusoidal", "dropout": 0.1, "attend": ["causal", "item"]},
            {**small, "mixer": "ssd", "scan": {"states": 3, "groups": 2}},
            {**small, "mixer": ["ssd", "attention"], "causal": True, "readout": 1},
            {**small, "mixer": "selective", "scan": {"states": 3, "rank": 2}, "readout": 1},
        ]

    def infer_start(self, inputs: Signatures) -> Signature:
        return self.checked(infer_entry(only(inputs), self.width, self.readout))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> Entry:
        given = only(inputs)
        return Entry(
            given,
            self.infer_start(inputs).width,
            positions=self.added(given),
            readout=self.readout,
            dropout=self.dropout,
            rngs=rngs,
        )

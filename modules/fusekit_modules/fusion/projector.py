"""A map of every token, to another width."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit.context import Context
from fusekit.layered import Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._compress import CompressorSpec, joined, joined_signature
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.layers.activation import ActivationName
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP


@register
class ProjectorSpec(CompressorSpec):
    """W x for every token (LLaVA, Liu et al. 2023, equation 1), or W2 gelu(W1 x) (LLaVA-1.5, Liu
    et al. 2024). Absent and padded tokens stay so.
    """

    type: Literal["projector"] = "projector"
    form: Literal["linear", "mlp"] = Field("mlp", description="one affine map, or two")
    hidden: Width | None = Field(None, description="width within the mlp; default that going out")
    activation: ActivationName = Field("gelu", description="within the mlp")

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        given = joined_signature(reads)
        return given.with_(sizes=(("time", given.length), ("embed", width)))

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "Projector":
        return Projector(self, joined_signature(reads).width, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"hidden": 5}, {"form": "linear", "at": "suffix"}]


class Projector(Inserting):
    """`[b, t, d] -> [b, t, width]`."""

    def __init__(self, spec: ProjectorSpec, given: int, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        axes, hidden = ("features", "embed"), spec.hidden or width
        self.proj = (
            Linear(given, width, axes=axes, rngs=rngs)
            if spec.form == "linear"
            else MLP(given, hidden, outputs=width, activation=spec.activation, rngs=rngs)
        )

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        stream = joined(streams)
        return stream.with_(values=self.proj(stream.values)).clean()

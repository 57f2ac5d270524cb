"""Early fusion."""

from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Count, Depth, FusionSpec, Outputs, Rate, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, concatenate, concatenate_signatures, vector
from fusekit_modules.fusion._vectors import projections
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.readout import Readouts
from fusekit_modules.layers.tower import Tower


@register
class EarlySpec(FusionSpec):
    """One trunk over the tokens of all inputs, read out by a learned token: as in Kim 2021 (ViLT).

    Give it embedded tokens, `image@input`: the layers of encoders that nothing reads are not built.
    Port `tokens`: all tokens after the trunk. Absent inputs and padding are masked tokens.
    """

    type: Literal["early"] = "early"
    depth: Depth = Field(2, description="layers of the trunk")
    heads: Count = Field(4, description="attention heads; they divide the width")
    width: Width | None = Field(
        None, description="of the trunk: inputs are mapped to it; default their own, if it is one"
    )
    hidden: Width | None = Field(None, description="width within an MLP; default four times")
    dropout: Rate = Field(0.0, description="of every sublayer's result")

    def trunk_width(self, inputs: Signatures) -> int:
        if self.width is not None:
            return self.width
        return expect_same(inputs, "embed", hint="one width, or `width` to map the inputs to")

    def infer(self, inputs: Signatures) -> Outputs:
        """A vector, and the tokens. Raises `WiringError` for what are no sequences of one width."""
        expect_count(inputs)
        given = {role: expect_sequence(signature, role) for role, signature in inputs.items()}
        width = self.trunk_width(given)
        if width % self.heads:
            raise WiringError("heads divide the width", found=self.heads, expected=f"of {width}")
        tokens = concatenate_signatures(list(given.values()))
        tokens = tokens.with_(sizes=(("time", tokens.length), ("embed", width)))
        return {"out": vector(width, optional=tokens.optional), "tokens": tokens}

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Early":
        return Early(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"width": 8, "heads": 2, "depth": 1, "dropout": 0.1}]


class Early(nnx.Module):
    """T([r; W_1 X_1; ...; W_M X_M])_0 with a transformer T and a learned r: `[b, width]`."""

    def __init__(self, spec: EarlySpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.trunk_width(inputs)
        maps: nnx.List[Linear] = nnx.List([])
        self.project = projections(inputs, width, rngs=rngs) if spec.width is not None else maps
        self.readout = Readouts(1, width, rngs=rngs)
        hidden, rate = spec.hidden or 4 * width, spec.dropout
        self.tower = Tower(
            width, spec.heads, depth=spec.depth, hidden=hidden, dropout=rate, rngs=rngs
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given = [stream.clean() for stream in streams.values()]
        for index, project in enumerate(self.project):
            given[index] = given[index].with_(values=project(given[index].values))
        joined = self.readout(concatenate(given).clean())
        mixed = self.tower(joined, context=context)
        out = Stream(mixed.values[:, 0], presence=mixed.presence).clean()
        return {"out": out, "tokens": mixed.cut(1, mixed.length).clean()}

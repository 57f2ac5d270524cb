"""The transformer over the fields of a table."""

from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Signature, Span, Stream, sequence
from fusekit_modules.encoders._blocks import BlocksSpec
from fusekit_modules.layers.entry import PositionsName, Tokens, only, spans_of
from fusekit_modules.layers.expect import expect_table
from fusekit_modules.layers.features import FieldTokens
from fusekit_modules.layers.readout import with_readouts


@register
class FtTransformerSpec(BlocksSpec):
    """Feature tokeniser and transformer over the fields of a table.

    Gorishniy et al. 2021 (FT-Transformer): each field is a token, a readout token gathers them. A
    field that is missing is a token that nobody reads.
    """

    type: Literal["ft_transformer"] = "ft_transformer"
    width: Width = Field(description="size of the tokens")
    readout: int = Field(1, ge=0, le=1000, description="learned readout tokens before the others")
    positions: PositionsName = Field(
        "keep", description="each field has its own bias, so by default nothing is added"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"depth": 1, "width": 8, "heads": 2}]

    def tokens(self, inputs: Signatures) -> Signature:
        """The fields as a sequence."""
        table = expect_table(only(inputs), "input", field=("input",))
        fields = table.size("field")
        spans: tuple[Span, ...] = spans_of(table, fields)
        return sequence(
            fields, self.width, spans=spans, padded=table.padded, optional=table.optional
        )

    def infer_start(self, inputs: Signatures) -> Signature:
        return self.checked(with_readouts(self.tokens(inputs), self.readout))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "FieldEntry":
        self.infer_start(inputs)
        return FieldEntry(self, inputs, rngs=rngs)


class FieldEntry(Tokens):
    """Fields as tokens, readout tokens before them."""

    def __init__(self, spec: FtTransformerSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        tokens, table = spec.tokens(inputs), only(inputs)
        super().__init__(
            tokens.length,
            spec.width,
            positions=spec.added(table),
            readout=spec.readout,
            dropout=spec.dropout,
            rngs=rngs,
        )
        self.spans = tokens.spans
        cardinalities = table.cardinalities or (0,) * table.size("field")
        self.fields = FieldTokens(cardinalities, spec.width, rngs=rngs)

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        values = self.fields(stream.values, context=context)
        tokens = Stream(values, stream.mask, stream.presence, spans=self.spans)
        return self.finish(tokens, context=context)

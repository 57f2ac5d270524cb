"""Tokens."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import Width, register
from fusekit.stream import Signature, Span
from fusekit_modules.modalities._entry import (
    Collated,
    RaggedSpec,
    as_codes,
    check_shape,
    describe,
    misfit,
)


@register
class TokensSpec(RaggedSpec):
    """A text or other sequence of integer codes, `[time]`.

    A row is a sequence of codes from 0 to `vocab` - 1, of any length up to `length`; what is
    missing at the end is padding. Text is turned into codes by a transform.
    """

    type: Literal["tokens"] = "tokens"
    vocab: Width = Field(description="how many different tokens there are")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocab": 11, "length": 5}, {"vocab": 5, "length": 4, "padded": False}]

    def signature(self) -> Signature:
        return Signature(
            (("time", self.length),),
            dtype="int",
            spans=(Span("", self.length),),
            padded=self.padded,
            optional=self.optional,
            classes=self.vocab,
        )

    def collate(self, rows: list[Any]) -> Collated:
        """Codes `[b, length]` in int32 and, if padded, the mask `[b, length]`."""
        given = []
        for index, row in enumerate(rows):
            if isinstance(row, str | bytes):
                raise misfit(index, describe(row), "integer codes: tokenise with a transform")
            codes = as_codes(row, index, self.vocab, "a sequence of integer codes")
            check_shape(codes, index, (None,))
            given.append(codes)
        values, mask = self.pad(given, ())
        return values.astype("int32"), mask

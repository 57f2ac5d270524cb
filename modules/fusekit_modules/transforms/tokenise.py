import re
import zlib
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from fusekit.component import TransformSpec, Width, register
from fusekit.errors import DataError

WORD = re.compile(r"\w+|[^\w\s]")


@register
class TokeniseSpec(TransformSpec):
    """Turns text into integer codes for a `tokens` modality, without a vocabulary file.

    `bytes` gives each byte of UTF-8 plus 1 (vocab 257). `words` gives lower-case words and marks
    hashed (CRC-32) to 1..vocab - 1; different words may share a code. 0 is for padding.
    """

    type: Literal["tokenise"] = "tokenise"
    when: Literal["train", "always"] = Field("always", description="in training only, or always")
    modality: str = Field(description="the modality to change")
    by: Literal["bytes", "words"] = Field("bytes", description="what becomes a code")
    vocab: Width = Field(257, description="codes, padding included; as in the modality")
    cut: int | None = Field(None, ge=1, description="codes of a row, at most")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"modality": "text"}, {"modality": "text", "by": "words", "vocab": 1000}]

    @model_validator(mode="after")
    def _bytes(self) -> "TokeniseSpec":
        if (self.by == "bytes" and self.vocab < 257) or self.vocab < 2:
            raise ValueError("bytes need a vocab of 257, words one of at least 2")
        return self

    def touches(self) -> tuple[str, ...]:
        return (self.modality,)

    def apply(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        text = row.get(self.modality)
        if text is None:
            return row
        if isinstance(text, bytes):
            text = text.decode()
        if not isinstance(text, str):
            raise DataError(f"tokenise changes text; {self.modality} is {type(text).__name__}")
        if self.by == "bytes":
            codes = [byte + 1 for byte in text.encode()]
        else:
            words = WORD.findall(text.lower())
            codes = [1 + zlib.crc32(word.encode()) % (self.vocab - 1) for word in words]
        return {**row, self.modality: np.asarray(codes[: self.cut], np.int32)}

"""Learned tokens among those of a stack."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Count, Signatures, register
from fusekit.config.reference import NAME
from fusekit.context import Context
from fusekit.layered import Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Span, Stream, sequence
from fusekit_modules.fusion._insert import Inserting, InsertSpec


@register
class PrefixTokensSpec(InsertSpec):
    """Learned tokens that a stack processes with its own: prompt tuning (Lester et al. 2021,
    section 2); visual prompts (Jia et al. 2022). They read nothing, and absence is the stack's. At
    several layers each adds its own to those before.
    """

    reads_inputs = False
    type: Literal["prefix_tokens"] = "prefix_tokens"
    tokens: Count = Field(8, description="how many tokens")
    label: str = Field("prompt", pattern=f"^{NAME}$", description="what they are called")

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        return sequence(self.tokens, width, label=self.label)

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "PrefixTokens":
        return PrefixTokens(self, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"tokens": 2}, {"tokens": 2, "at": "suffix", "share": True}]


class PrefixTokens(Inserting):
    """The tokens `[n, d]`, the same in every sample."""

    def __init__(self, spec: PrefixTokensSpec, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        init = initializers.normal(0.02)
        self.learned = parameter(rngs, init, (spec.tokens, width), (None, "embed"))
        self.spans = (Span(spec.label, spec.tokens),)

    def tokens(self, stack: Stream, reads: Reads, *, context: Context) -> Stream:
        learned = self.learned[...].astype(stack.values.dtype)
        values = jnp.broadcast_to(learned, (stack.batch, *learned.shape))
        return Stream(values, spans=self.spans)

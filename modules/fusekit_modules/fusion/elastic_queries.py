"""Learned queries of which any number from the front will do."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, Depth, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    fitted,
    joined,
    joined_signature,
    made,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.fusion._latents import Latents, ReadingLayer, entered, expect_heads
from fusekit_modules.layers.norm import LayerNorm


@register
class ElasticQueriesSpec(CompressorSpec):
    """Ordered queries of which a training step uses a random number from the front, the same in
    all samples: the Matryoshka query transformer (Hu et al. 2024).

    A query reads the input and no other query, so a shorter prefix is the same tokens, fewer of
    them. What a step leaves out is padding: all lengths are one compiled program. With `cut` only
    `tokens` come out, for use after training. Absent and padded tokens are not read; a sample
    without any valid one gives padding.
    """

    type: Literal["elastic_queries"] = "elastic_queries"
    queries: Count = Field(256, description="how many there are")
    tokens: Count | None = Field(None, description="how many evaluation uses; default all")
    lengths: tuple[Count, ...] = Field((), description="what training draws from; default any")
    cut: bool = Field(False, description="whether only `tokens` are there, in training too")
    depth: Depth = Field(1, description="layers")
    heads: Count = Field(4, description="attention heads")
    hidden: Width | None = Field(None, description="width within an mlp; default four times")

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """Raises `WiringError` for more tokens than queries, and heads that do not divide."""
        given = joined_signature(reads)
        expect_heads(self.heads, width)
        for field, sizes in (("tokens", (self.tokens or 1,)), ("lengths", self.lengths or (1,))):
            if max(sizes) > self.queries:
                message, due = "there are fewer queries", f"at most {self.queries}"
                raise WiringError(message, found=max(sizes), expected=due, field=(field,))
        masked = given.padded or not self.cut
        return made(given, self.length, width).with_(padded=masked)

    @property
    def length(self) -> int:
        """How many tokens come out, padding included."""
        return self.tokens if self.cut and self.tokens else self.queries

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "ElasticQueries":
        return ElasticQueries(self, joined_signature(reads).width, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"queries": 4, "heads": 2, "hidden": 4}
        return [
            {**small, "tokens": 2},
            {**small, "tokens": 2, "cut": True},
            {**small, "queries": 5, "lengths": [1, 2, 4, 5]},
        ]


class ElasticQueries(Inserting):
    """`[b, t, d] -> [b, queries, width]`."""

    def __init__(self, spec: ElasticQueriesSpec, given: int, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        self.spec, hidden = spec, spec.hidden or 4 * width
        self.proj = fitted(given, width, rngs=rngs)
        self.latents = Latents(spec.queries, width, rngs=rngs)
        self.layers = nnx.List(
            [
                ReadingLayer(width, spec.heads, hidden, mixing=False, rngs=rngs)
                for _ in range(spec.depth)
            ]
        )
        self.norm = LayerNorm(width, rngs=rngs)

    def used(self, context: Context) -> int | jax.Array:
        """How many queries this call uses."""
        spec = self.spec
        if not context.training:
            return spec.tokens or spec.queries
        key = context.rng("length")
        if spec.lengths:
            return jnp.asarray(spec.lengths)[jax.random.randint(key, (), 0, len(spec.lengths))]
        return jax.random.randint(key, (), 1, spec.queries + 1)

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        x = entered(self.proj, joined(streams))
        z = self.latents(x, self.spec.length)
        for index, layer in enumerate(self.layers):
            z = layer(z, x, context=context.at(f"{context.path}.layers", index))
        if not self.spec.cut:
            used = jnp.broadcast_to(jnp.arange(z.length) < self.used(context), z.values.shape[:2])
            z = z.with_(mask=used if z.mask is None else z.mask & used)
        return z.with_(values=self.norm(z.values)).clean()

"""Learned tokens that take in a sequence of any length."""

from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, Depth, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, Span, Stream, concatenate
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    Sizes,
    data,
    data_bounds,
    fitted,
    joined,
    joined_signature,
    made,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.fusion._latents import (
    AxisEmbed,
    Latents,
    ReadingLayer,
    embed_grid,
    entered,
    expect_heads,
)
from fusekit_modules.layers.expect import expect_count
from fusekit_modules.layers.norm import LayerNorm


@register
class ResamplerSpec(CompressorSpec):
    """A fixed number of learned tokens reads the input and one another, layer by layer: the
    Perceiver resampler (Flamingo, Alayrac et al. 2022, section 2.1 and figure 5).

    The input is brought to the width of the tokens first, and a norm stands at the end. Absent and
    padded tokens are not read; a sample (with `per: item`, an item) without any valid one gives
    padding. Tokens of an item take the place in the document that the item has.
    """

    type: Literal["resampler"] = "resampler"
    tokens: Count = Field(64, description="how many tokens come out, of each item or sample")
    depth: Depth = Field(6, description="layers")
    heads: Count = Field(4, description="attention heads")
    hidden: Width | None = Field(None, description="width within an mlp; default four times")
    per: Literal["sample", "item"] = Field("sample", description="what is read together")
    embed: tuple[Literal["time", "height", "width", "frequency"], ...] = Field(
        (), description="axes of the grid for whose indices learned vectors are added"
    )
    source: Sizes = Field((), description="the grid's sizes, if the input does not know them")

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """Raises `WiringError` for heads that do not divide the width, items of unequal size, axes
        that the grid has not, and the axes of several inputs."""
        given = joined_signature(reads)
        expect_heads(self.heads, width)
        expect_count(reads, most=1 if self.embed else None)
        grid = dict(embed_grid(given, self.source)) if self.embed else {}
        if missing := [axis for axis in self.embed if axis not in grid]:
            known = ", ".join(grid)
            raise WiringError(
                "the grid has no such axis", found=missing[0], expected=known, field=("embed",)
            )
        if self.per == "sample":
            return made(given, self.tokens, width)
        data_bounds(given.spans)
        spans = [span for span in given.spans if not span.readout]
        if uneven := [span for span in spans if span.size % span.items]:
            found = f"{uneven[0].size} tokens in {uneven[0].items} items"
            message, due = "items differ in size", "as many tokens in each"
            raise WiringError(message, found=found, expected=due, field=("per",))
        out = tuple(Span(span.label, span.items * self.tokens, span.items) for span in spans)
        return made(given, sum(span.size for span in out), width).with_(spans=out)

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "Resampler":
        return Resampler(self, joined_signature(reads), width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"tokens": 3, "depth": 1, "heads": 2, "hidden": 4}
        return [small, {**small, "per": "item", "embed": ["time"]}]


class Resampler(Inserting):
    """`[b, t, d] -> [b, tokens, width]`."""

    def __init__(self, spec: ResamplerSpec, given: Signature, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        self.per = spec.per
        self.embed = AxisEmbed(given, spec.embed, spec.source, rngs) if spec.embed else None
        self.proj = fitted(given.width, width, rngs=rngs)
        self.latents = Latents(spec.tokens, width, rngs=rngs)
        size, hidden = range(spec.depth), spec.hidden or 4 * width
        self.layers = nnx.List(
            [ReadingLayer(width, spec.heads, hidden, mixing=True, rngs=rngs) for _ in size]
        )
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        x = joined(streams)
        x = entered(self.proj, x if self.embed is None else self.embed(x))
        return self.read(x, context) if self.per == "sample" else self.by_item(x, context)

    def read(self, x: Stream, context: Context) -> Stream:
        z = self.latents(x)
        for index, layer in enumerate(self.layers):
            z = layer(z, x, context=context.at(f"{context.path}.layers", index))
        return z.with_(values=self.norm(z.values)).clean()

    def by_item(self, x: Stream, context: Context) -> Stream:
        """Folds the items of each span into the batch; readout tokens are left out."""
        parts, at, x = [], 0, data(x)
        for span in x.spans:
            part, at = x.cut(at, at + span.size), at + span.size
            parts.append(self.unfolded(self.read(folded(part, span.items), context), part, span))
        whole = parts[0] if len(parts) == 1 else concatenate(parts)
        mask = None if x.mask is None else whole.mask
        return whole.with_(mask=mask, presence=x.presence).clean()

    def unfolded(self, z: Stream, part: Stream, span: Span) -> Stream:
        """`[b items, n, d] -> [b, items n, d]`, each item at the place of its first token."""
        shape, position = (part.batch, span.items * z.length), part.position
        if position is not None:
            first = position.reshape(*position.shape[:-1], span.items, -1)[..., :1]
            position = jnp.broadcast_to(first, (*first.shape[:-1], z.length))
            position = position.reshape(*first.shape[:-2], -1)
        values = z.values.reshape(*shape, z.width)
        mask = None if z.mask is None else z.mask.reshape(shape)
        out = (replace(span, size=shape[1]),)
        return Stream(values, mask, position=position, spans=out)


def folded(part: Stream, items: int) -> Stream:
    """`[b, items n, d] -> [b items, n, d]`; what an absent sample holds is padding."""
    valid, size = part.valid(), part.length // items
    mask = None if valid is None else valid.reshape(-1, size)
    spans = (Span(part.spans[0].label, size),)
    return Stream(part.values.reshape(-1, size, part.width), mask, spans=spans)

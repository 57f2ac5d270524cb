"""Learned tokens that read a sequence: what the resamplers share."""

import math

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Signature, Span, Stream
from fusekit_modules.fusion._compress import Sizes, data, grid_of, label_of
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import LayerNorm


def expect_heads(heads: int, width: int) -> None:
    """Raises `WiringError` unless the heads divide the width."""
    if width % heads:
        message, due = "heads do not divide the width", f"a divisor of {width}"
        raise WiringError(message, found=heads, expected=due, field=("heads",))


class Latents(nnx.Module):
    """Learned tokens `[n, d]`."""

    def __init__(self, tokens: int, width: int, *, rngs: nnx.Rngs):
        init = initializers.normal(0.02)
        self.tokens = parameter(rngs, init, (tokens, width), (None, "embed"))

    def __call__(self, source: Stream, count: int | None = None) -> Stream:
        """The first `count` of them in every sample, labelled as the source is. Where the source
        has no valid token they are padding."""
        tokens = self.tokens[:count].astype(source.values.dtype)
        values = jnp.broadcast_to(tokens, (source.batch, *tokens.shape))
        mask = source.mask
        if mask is not None:
            mask = jnp.broadcast_to(jnp.any(mask, 1, keepdims=True), values.shape[:2])
        spans = (Span(label_of(source.spans), values.shape[1]),)
        return Stream(values, mask, source.presence, spans=spans)


class ReadingLayer(nnx.Module):
    """z + attention(norm(z), [norm(x), norm(z)]), then z + mlp(norm(z)): a layer of the Perceiver
    resampler. Without `mixing` the tokens read x alone, each by itself."""

    def __init__(self, width: int, heads: int, hidden: int, *, mixing: bool, rngs: nnx.Rngs):
        self.mixing = mixing
        self.source_norm, self.norm = LayerNorm(width, rngs=rngs), LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.mlp_norm, self.mlp = LayerNorm(width, rngs=rngs), MLP(width, hidden, rngs=rngs)

    def __call__(self, z: Stream, x: Stream, *, context: Context) -> Stream:
        normal = z.with_(values=self.norm(z.values))
        keys = [self.attention.keys_values(x.with_(values=self.source_norm(x.values)))]
        if self.mixing:
            keys.append(self.attention.keys_values(normal))
        read = self.attention.read(self.attention.queries(normal), keys, context=context)
        values = z.values + read
        return z.with_(values=values + self.mlp(self.mlp_norm(values)))


class AxisEmbed(nnx.Module):
    """A learned vector for each index along chosen axes of the grid that a sequence was flattened
    from (Flamingo, Alayrac et al. 2022, section 2.1, for time). Other tokens are left out."""

    def __init__(self, given: Signature, axes: tuple[str, ...], source: Sizes, rngs: nnx.Rngs):
        grid, self.axes = embed_grid(given, source), axes
        self.sizes = tuple(size for _, size in grid)
        self.places = tuple([name for name, _ in grid].index(axis) for axis in axes)
        init = initializers.normal(0.02)
        shapes = [(self.sizes[place], given.width) for place in self.places]
        self.tables = nnx.List([parameter(rngs, init, s, ("time", "embed")) for s in shapes])

    def __call__(self, stream: Stream) -> Stream:
        stream = data(stream)
        index = jnp.indices(self.sizes).reshape(len(self.sizes), math.prod(self.sizes))
        values = stream.values
        for place, table in zip(self.places, self.tables, strict=True):
            values = values + table[...].astype(values.dtype)[index[place]]
        return stream.with_(values=values).clean()


def embed_grid(given: Signature, source: Sizes) -> tuple[tuple[str, int], ...]:
    """The grid; a sequence that was never one is a grid of time alone."""
    if source or given.grid:
        return grid_of(given, source, "inputs")
    return (("time", sum(span.size for span in given.spans if not span.readout)),)


def entered(proj: Linear | None, stream: Stream) -> Stream:
    """The stream in the width of the latents."""
    return stream if proj is None else stream.with_(values=proj(stream.values)).clean()

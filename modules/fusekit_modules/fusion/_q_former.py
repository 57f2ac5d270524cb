"""The layer of a querying transformer, and its queries."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.layered import KeyValue
from fusekit.stream import Span, Stream
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import LayerNorm


class QFormerLayer(nnx.Module):
    """a = norm(h + self-attention(h)); of the first `n` tokens, the queries, with `reads`,
    a = norm(a + cross-attention(a, x)); then norm(a + mlp(a)), text by an mlp of its own."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        reads: bool,
        text: bool,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.rate = dropout
        self.attention = Attention(width, heads, rngs=rngs)
        self.attention_norm = LayerNorm(width, rngs=rngs)
        self.cross = Attention(width, heads, rngs=rngs) if reads else None
        self.cross_norm = LayerNorm(width, rngs=rngs) if reads else None
        self.mlp, self.mlp_norm = MLP(width, hidden, rngs=rngs), LayerNorm(width, rngs=rngs)
        self.text_mlp = MLP(width, hidden, rngs=rngs) if text else None
        self.text_norm = LayerNorm(width, rngs=rngs) if text else None

    def __call__(
        self, h: Stream, x: Stream, n: int, windows: int, mask: Any, *, context: Context
    ) -> Stream:
        def added(a: Array, update: Array, norm: LayerNorm, name: str) -> Array:
            return norm(a + dropout(update, self.rate, context=context, purpose=name))

        read = self.attention(h, masks=[mask], context=context)
        a = added(h.values, read, self.attention_norm, "attention")
        queries, text = a[:, :n], a[:, n:]
        if self.cross is not None and self.cross_norm is not None:
            read = self.read(self.cross, queries, x, windows, context)
            queries = added(queries, read, self.cross_norm, "cross")
        queries = added(queries, self.mlp(queries), self.mlp_norm, "mlp")
        if self.text_mlp is not None and self.text_norm is not None:
            text = added(text, self.text_mlp(text), self.text_norm, "text_mlp")
        return h.with_(values=jnp.concatenate([queries, text], axis=1)).clean()

    def read(
        self, cross: Attention, queries: Array, x: Stream, windows: int, context: Context
    ) -> Float[Array, "b n d"]:
        """Queries read their own window: `[b w n, d] -> [b, w n, d]`, windows in the batch."""
        source, valid = cross.keys_values(x), x.valid()

        def fold(array: Array) -> Array:
            return array.reshape(x.batch * windows, -1, *array.shape[2:])

        mask = None if valid is None else fold(valid)
        own = KeyValue(fold(source.key), fold(source.value), Stream(fold(x.values), mask))
        read = cross.read(cross.queries(Stream(fold(queries))), [own], context=context)
        return read.reshape(queries.shape)


def asked(each: Stream, x: Stream, windows: int) -> Stream:
    """The queries of every window of x, from those of one; padding where a window has nothing to
    read."""
    values = jnp.tile(each.values, (1, windows, 1))
    mask = x.mask
    if mask is not None:
        mask = jnp.any(mask.reshape(x.batch, windows, -1), axis=2)
        mask = jnp.repeat(mask, each.length, axis=1)
    spans = (Span(each.spans[0].label, values.shape[1]),)
    return Stream(values, mask, x.presence, spans=spans)


def readable(queries: int, total: int, windows: int) -> Bool[Array, "q k"]:
    """Who reads whom where nothing reads what comes after it: queries read those of their own and
    earlier windows; text, which stands after them, reads queries and earlier text."""
    window = np.arange(queries) // (queries // windows)
    mask = np.tril(np.ones((total, total), bool))
    mask[:queries, :queries] = window[None] <= window[:, None]
    return jnp.asarray(mask)

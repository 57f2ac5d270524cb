"""The backward kernel for TPUs: a program for each group of heads of one example, all its streams.

Weights are made again from scores and kept logarithms. As in the forward kernel keys stand on
sublanes and queries on lanes, so that what a query has one of is a row.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from fusekit_modules.ops.stream_attention._tpu_tiles import (
    clean,
    column,
    dot,
    flip,
    of_head,
)
from fusekit_modules.ops.stream_attention.form import Form


def kernel(
    form: Form, heads: int, streams: Any, read: Any, kept: Any, d_queries: Any, pairs: Any
) -> None:
    """Refs of one example and `heads` heads; masks are rows of float32.

    `kept` are results, logarithms and gradients of results of each stream; `pairs` is where the
    gradients of keys and values go.
    """
    keys, sums = [], []
    for source in read:
        there = None if source.mask is None else column(source.mask[0, 0])
        key, value = clean(source.key[0], there), clean(source.value[0], there)
        keys.append((key, value, flip(key), there))
        sums.append([jnp.zeros(key.shape, jnp.float32)] * 2)
    for stream, sources, given, out in zip(streams, form.reads, kept, d_queries, strict=True):
        there = None if stream.mask is None else column(stream.mask[0, 0])
        query, grad = clean(stream.values[0], there), clean(given[2][0], there)
        result = given[0][0]
        deltas = (grad.astype(jnp.float32) * result.astype(jnp.float32)).T
        dim = query.shape[1] // heads
        flipped = []
        for head in range(heads):
            delta = jnp.sum(deltas[head * dim : (head + 1) * dim], axis=0, keepdims=True)
            logs = given[1][0, 0, head : head + 1, :]
            mine = (of_head(query, head, heads), of_head(grad, head, heads), logs, delta)
            total = jnp.zeros((dim, query.shape[0]), jnp.float32)
            for n in sources:
                d_query, d_key, d_value = _head(form, heads, head, mine, keys[n])
                total = total + d_query
                sums[n] = [sums[n][0] + d_key, sums[n][1] + d_value]
            flipped.append(total * form.scale)
        whole = flipped[0] if heads == 1 else jnp.concatenate(flipped, axis=0)
        out[0] = whole.T.astype(out.dtype)
    for (d_key, d_value), (key_out, value_out) in zip(sums, pairs, strict=True):
        key_out[0] = (d_key * form.scale).astype(key_out.dtype)
        value_out[0] = d_value.astype(value_out.dtype)


def _head(
    form: Form,
    heads: int,
    head: int,
    stream: tuple[Array, Array, Array, Array],
    source: tuple[Array, Array, Array, Array | None],
) -> tuple[Array, Array, Array]:
    """Gradients of one head from one source: `[d, q]` of queries, without the scale; `[k, lanes]`
    of keys, without it, and of values, zero outside the head's lanes."""
    query, grad, logs, delta = stream
    key, value, flipped, there = source
    dim = key.shape[1] // heads
    scores = dot(form, key, query, (1, 1)) * form.scale
    if there is not None:
        scores = jnp.where(there > 0, scores, -jnp.inf)
    weights = jnp.exp(scores - logs)
    d_value = dot(form, weights.astype(grad.dtype), grad, (1, 0))
    d_weights = dot(form, value, grad, (1, 1))
    d_scores = (weights * (d_weights - delta)).astype(query.dtype)
    d_query = dot(form, flipped[head * dim : (head + 1) * dim], d_scores, (1, 0))
    return d_query, dot(form, d_scores, query, (1, 0)), d_value

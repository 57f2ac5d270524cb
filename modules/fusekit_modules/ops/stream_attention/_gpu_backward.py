"""The backward kernels for GPUs: weights are made again from scores and kept logarithms.

One kernel has a program for each tile of queries and sums over keys; the other has one for each
tile of keys and sums over the queries of all streams that read it (Dao 2023, algorithm 2, split in
two so that no sum needs atomics).
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from fusekit_modules.ops.stream_attention._gpu_tiles import (
    LOG2E,
    dot,
    exp2,
    over,
    power,
    read,
    rows,
    there,
    within,
    write,
)
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source


def queries_tile(
    form: Form,
    stream: Queries,
    sources: list[Source],
    kept: tuple[Any, Any, Any],
    outs: tuple[Any, Any],
    place: tuple[Any, Any, Any],
    sizes: tuple[int, int, bool],
) -> None:
    """Of refs of results, their logarithms and gradients (`kept`): the gradient of a tile of
    queries, and the products of results and their gradients, which the other kernel needs."""
    tile, head, batch = place
    out, lse, grad = kept
    d_query, products = outs
    size_q, size_k, fused = sizes
    length, dim = stream.values.shape[1], stream.values.shape[2] // form.heads
    start = tile * size_q
    inside = within(start, size_q, length)
    present = there(stream.mask, batch, start, inside, size_q)
    at = rows(start, size_q, head, dim, batch, present)
    query, d_out = at.load(stream.values), at.load(grad)
    delta = jnp.sum(d_out.astype(jnp.float32) * at.load(out).astype(jnp.float32), axis=1)
    write(products, delta, head, batch, start, inside)
    logs = read(lse, head, batch, start, size_q, inside) * LOG2E
    any_query = None if stream.mask is None else jnp.max(present.astype(jnp.int32))

    def visit(source: Source, first: Any, size: int, found: Array | None, total: Array) -> Array:
        tile_k = rows(first, size, head, dim, batch, found)
        key = tile_k.load(source.key)
        scores = dot(form, query, key, (1, 1))
        weights = exp2(fused, scores, form.scale * LOG2E, logs[:, None])
        if found is not None:
            weights = jnp.where(found[None, :], weights, 0.0)
        d_weights = dot(form, d_out, tile_k.load(source.value), (1, 1))
        d_scores = weights * (d_weights - delta[:, None])
        return total + dot(form, d_scores.astype(key.dtype), key, (1, 0))

    total = jnp.zeros((size_q, power(dim)), jnp.float32)
    for source in sources:
        keys = source.key.shape[1]
        total = over(source.mask, batch, keys, size_k, any_query, partial(visit, source), total)
    at.store(d_query, total * form.scale, inside)


def keys_tile(
    form: Form,
    source: Source,
    readers: list[tuple[Queries, Any, Any, Any]],
    outs: tuple[Any, Any],
    place: tuple[Any, Any, Any],
    sizes: tuple[int, int, bool],
) -> None:
    """Gradients of a tile of keys and values, from the streams that read them: of each, refs of
    its queries, logarithms, products of results and gradients, and gradients."""
    tile, head, batch = place
    size_q, size_k, fused = sizes
    length, dim = source.key.shape[1], source.key.shape[2] // form.heads
    start = tile * size_k
    inside = within(start, size_k, length)
    present = there(source.mask, batch, start, inside, size_k)
    at = rows(start, size_k, head, dim, batch, present)
    key, value = at.load(source.key), at.load(source.value)
    any_key = None if source.mask is None else jnp.max(present.astype(jnp.int32))

    def visit(reader: Any, first: Any, size: int, found: Array | None, carry: Any) -> Any:
        stream, lse, products, grad = reader
        d_key, d_value = carry
        within_q = None if found is None else within(first, size, stream.values.shape[1])
        tile_q = rows(first, size, head, dim, batch, found)
        query, d_out = tile_q.load(stream.values), tile_q.load(grad)
        logs = read(lse, head, batch, first, size, within_q) * LOG2E
        delta = read(products, head, batch, first, size, within_q)
        scores = dot(form, key, query, (1, 1))
        weights = exp2(fused, scores, form.scale * LOG2E, logs[None, :])
        if present is not None:
            weights = jnp.where(present[:, None], weights, 0.0)
        d_value = d_value + dot(form, weights.astype(d_out.dtype), d_out, (1, 0))
        d_weights = dot(form, value, d_out, (1, 1))
        d_scores = weights * (d_weights - delta[None, :])
        return d_key + dot(form, d_scores.astype(query.dtype), query, (1, 0)), d_value

    carry: Any = (jnp.zeros((size_k, power(dim)), jnp.float32),) * 2
    for reader in readers:
        stream = reader[0]
        length_q = stream.values.shape[1]
        visit_all = partial(visit, reader)
        carry = over(stream.mask, batch, length_q, size_q, any_key, visit_all, carry)
    at.store(outs[0], carry[0] * form.scale, inside)
    at.store(outs[1], carry[1], inside)

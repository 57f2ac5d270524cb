"""The forward kernel for GPUs: a program for each tile of queries of one head of one example.

Scores of a tile of queries and a tile of keys never leave the chip (Dao et al. 2022, algorithm 1;
Dao 2023, algorithm 1): the running maximum and sum are corrected as tiles of keys come. Tiles
beyond the last key that is there are not visited, so that an absent modality costs nothing.
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
    rows,
    there,
    within,
    write,
)
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source

LOW = -1e30
"""Below any score, and finite, so that the difference of two such is no NaN."""


def one_tile(
    form: Form,
    stream: Queries,
    sources: list[Source],
    outs: tuple[Any, Any],
    place: tuple[Any, Any, Any],
    sizes: tuple[int, int, bool],
) -> None:
    """Refs of a stream and its sources; writes the tile at `place` (tile, head, example)."""
    tile, head, batch = place
    out, lse = outs
    size_q, size_k, fused = sizes
    length, dim = stream.values.shape[1], stream.values.shape[2] // form.heads
    start = tile * size_q
    inside = within(start, size_q, length)
    present = there(stream.mask, batch, start, inside, size_q)
    at = rows(start, size_q, head, dim, batch, present)
    query = at.load(stream.values)
    any_query = None if stream.mask is None else jnp.max(present.astype(jnp.int32))

    log2_scale = form.scale * LOG2E

    def visit(source: Source, first: Any, size: int, found: Array | None, carry: Any) -> Any:
        total, peak, mixed = carry
        tile_k = rows(first, size, head, dim, batch, found)
        scores = dot(form, query, tile_k.load(source.key), (1, 1))
        if found is not None:
            scores = jnp.where(found[None, :], scores, -jnp.inf)
        higher = jnp.maximum(peak, jnp.max(scores, axis=1))
        mass = exp2(fused, scores, log2_scale, (higher * log2_scale)[:, None])
        shrink = jnp.exp2((peak - higher) * log2_scale)
        value = tile_k.load(source.value)
        mixed = mixed * shrink[:, None] + dot(form, mass.astype(value.dtype), value, (1, 0))
        return total * shrink + jnp.sum(mass, axis=1), higher, mixed

    carry: Any = (
        jnp.zeros((size_q,), jnp.float32),
        jnp.full((size_q,), LOW, jnp.float32),
        jnp.zeros((size_q, power(dim)), jnp.float32),
    )
    for source in sources:
        keys = source.key.shape[1]
        read = partial(visit, source)
        carry = over(source.mask, batch, keys, size_k, any_query, read, carry)
    total, peak, mixed = carry
    some = total > 0 if present is None else (total > 0) & present
    safe = jnp.where(some, total, 1.0)
    at.store(out, jnp.where(some[:, None], mixed / safe[:, None], 0.0), inside)
    if lse is not None:
        logs = jnp.where(some, peak * form.scale + jnp.log(safe), 0.0)
        write(lse, logs, head, batch, start, inside)

"""The forward kernel for TPUs: a program for each group of heads of one example, all its streams.

Heads that fill the 128 lanes together stay together. Scores stand with keys on sublanes and queries
on lanes, so that maxima and sums over keys are plain vector arithmetic and not the cross-lane
unit's. Whole streams at a time leave the scheduler more to overlap: of 128 queries at a time the
compiler makes nearly twice as many bundles.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from fusekit_modules.ops.stream_attention._tpu_tiles import column, dot, exact, of_head
from fusekit_modules.ops.stream_attention.form import Form

LOW = -1e30
"""Below any score, and finite."""


def kernel(form: Form, heads: int, streams: Any, read: Any, outs: Any) -> None:
    """Refs of one example and `heads` heads; masks are rows of float32."""
    values, columns = [], []
    for source in read:
        mask = None if source.mask is None else source.mask[0, 0]
        flipped = source.value[0].astype(jnp.float32).T
        flipped = flipped if mask is None else jnp.where(mask > 0, flipped, 0.0)
        values.append(flipped.astype(source.value.dtype))
        columns.append(None if mask is None else column(mask))
    for stream, sources, (out, lse) in zip(streams, form.reads, outs, strict=True):
        mine = [(read[n].key[0], values[n], columns[n]) for n in sources]
        there = None if stream.mask is None else stream.mask[0, 0] > 0
        mixed = []
        for head in range(heads):
            sums, logs = _head(form, heads, head, stream.values[0], mine)
            if there is not None:
                sums, logs = jnp.where(there, sums, 0.0), jnp.where(there, logs, 0.0)
            mixed.append(sums)
            if lse is not None:
                lse[0, 0, head : head + 1, :] = logs
        whole = mixed[0] if heads == 1 else jnp.concatenate(mixed, axis=0)
        out[0] = whole.T.astype(out.dtype)


def _head(
    form: Form, heads: int, head: int, query: Array, sources: Sequence[Any]
) -> tuple[Array, Array]:
    """Of all queries of one head what they read `[d, q]`, and the logarithms `[1, q]`."""
    dim, length = query.shape[1] // heads, query.shape[0]
    before = form.scale if exact(form.scale) else 1.0
    one = of_head(query, head, heads, before)
    scores = []
    for key, _, allowed in sources:
        score = dot(form, key, one, (1, 1))
        score = score if before == form.scale else score * form.scale
        scores.append(score if allowed is None else jnp.where(allowed > 0, score, -jnp.inf))
    peak = jnp.full((1, length), LOW, jnp.float32)
    for score in scores:
        peak = jnp.maximum(peak, jnp.max(score, axis=0, keepdims=True))
    total, sums = jnp.zeros_like(peak), jnp.zeros((dim, length), jnp.float32)
    for score, (_, value, _) in zip(scores, sources, strict=True):
        mass = jnp.exp(score - peak)
        total = total + jnp.sum(mass, axis=0, keepdims=True)
        mine = value[head * dim : (head + 1) * dim]
        sums = sums + dot(form, mine, mass.astype(value.dtype), (1, 0))
    some = total > 0
    safe = jnp.where(some, total, 1.0)
    inverse = jnp.where(some, 1 / safe, 0.0)
    return sums * inverse, jnp.where(some, peak + jnp.log(safe), 0.0)

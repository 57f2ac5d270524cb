"""Stream attention in plain JAX, for any device: scores in float32, products in the inputs' dtype.

The backward pass computes the weights again from the scores and the kept logarithms, so that no
weights are kept between the passes.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source, packed, segments


def unsupported(*_: Any) -> Reason:
    return None


def forward(
    form: Form, queries: Sequence[Queries], sources: Sequence[Source], *, logs: bool = True
) -> list[tuple[Float[Array, "b q hd"], Float[Array, "b h q"]]]:
    """As `reference.forward`."""
    found = []
    for stream, read in zip(queries, form.reads, strict=True):
        key, value, allowed = _joined(form, stream, [sources[n] for n in read])
        scores = _scores(form, _heads(form, stream.values, stream.mask), key, allowed)
        peak = jnp.maximum(jnp.max(scores, axis=-1), jnp.finfo(scores.dtype).min)
        mass = jnp.exp(scores - peak[..., None])
        total = jnp.sum(mass, axis=-1)
        some = _some(stream, total > 0)
        inverse = jnp.where(some, 1 / jnp.where(some, total, 1.0), 0.0)
        weights = (mass * inverse[..., None]).astype(value.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        lse = jnp.where(some, peak + jnp.log(jnp.where(some, total, 1.0)), 0.0)
        found.append((out.reshape(stream.values.shape), lse))
    return found


def backward(
    form: Form,
    queries: Sequence[Queries],
    sources: Sequence[Source],
    results: Sequence[tuple[Array, Array]],
    grads: Sequence[Float[Array, "b q hd"]],
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """As `reference.backward`."""
    d_queries: list[Array] = []
    parts: list[list[tuple[Array, Array]]] = [[] for _ in sources]
    for stream, read, (out, lse), grad in zip(queries, form.reads, results, grads, strict=True):
        key, value, allowed = _joined(form, stream, [sources[n] for n in read])
        query = _heads(form, stream.values, stream.mask)
        d_out = _heads(form, grad, stream.mask)
        high = lse.dtype
        delta = jnp.einsum(
            "bqhd,bqhd->bhq", d_out, _heads(form, out, None), preferred_element_type=high
        )
        weights = jnp.exp(_scores(form, query, key, allowed) - lse[..., None])
        d_value = jnp.einsum("bqhd,bhqk->bhdk", d_out, weights.astype(value.dtype))
        d_weights = jnp.einsum("bqhd,bkhd->bhqk", d_out, value, preferred_element_type=high)
        d_scores = (weights * (d_weights - delta[..., None])).astype(key.dtype)
        wide: Any = {"preferred_element_type": high}
        d_query = form.scale * jnp.einsum("bhqk,bkhd->bqhd", d_scores, key, **wide)
        d_query = d_query.astype(grad.dtype).reshape(grad.shape)
        d_queries.append(_there(d_query, stream.mask))
        d_key = form.scale * jnp.einsum("bqhd,bhqk->bhdk", query, d_scores, **wide)
        d_key, d_value = (d.astype(key.dtype).transpose(0, 3, 1, 2) for d in (d_key, d_value))
        start = 0
        for n in read:
            stop = start + sources[n].key.shape[1]
            parts[n].append((d_key[:, start:stop], d_value[:, start:stop]))
            start = stop
    pairs = []
    for source, found in zip(sources, parts, strict=True):
        d_key, d_value = (
            reduce(jnp.add, d).reshape(source.key.shape) for d in zip(*found, strict=True)
        )
        pairs.append((_there(d_key, source.mask), _there(d_value, source.mask)))
    return d_queries, pairs


def _joined(
    form: Form, stream: Queries, sources: list[Source]
) -> tuple[Array, Array, Bool[Array, "b #q k"] | None]:
    """Keys and values of all the sources side by side, and which may be read, where not all."""
    key = jnp.concatenate([_heads(form, s.key, s.mask) for s in sources], axis=1)
    value = jnp.concatenate([_heads(form, s.value, s.mask) for s in sources], axis=1)
    allowed = None
    if any(s.mask is not None for s in sources):
        masks = [jnp.ones(s.key.shape[:2], bool) if s.mask is None else s.mask for s in sources]
        allowed = jnp.concatenate(masks, axis=1)[:, None]
    if packed([stream], sources):
        theirs = jnp.concatenate([segments(s) for s in sources], axis=1)
        own = segments(stream)[:, :, None] == theirs[:, None]
        allowed = own if allowed is None else allowed & own
    return key, value, allowed


def _scores(
    form: Form, query: Array, key: Array, allowed: Bool[Array, "b #q k"] | None
) -> Float[Array, "b h q k"]:
    high = jnp.promote_types(query.dtype, jnp.float32)
    scores = form.scale * jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=high)
    return scores if allowed is None else jnp.where(allowed[:, None], scores, -jnp.inf)


def _some(stream: Queries, some: Array) -> Array:
    return some if stream.mask is None else some & stream.mask[:, None, :]


def _there(array: Array, mask: Array | None) -> Array:
    return array if mask is None else jnp.where(mask[..., None], array, 0)


def _heads(form: Form, array: Array, mask: Array | None) -> Float[Array, "b t h d"]:
    return _there(array, mask).reshape(*array.shape[:2], form.heads, -1)

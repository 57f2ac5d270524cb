"""Stream attention in plain JAX, for any device: stream by stream, over the keys and values of all
the sources that it reads, side by side."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.stream_attention.dense import Allowed, attend, gradients
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
        query = _heads(form, stream.values, stream.mask)
        out, lse = attend(query, key, value, allowed, form.scale)
        out = _there(out.reshape(stream.values.shape), stream.mask)
        some = True if stream.mask is None else stream.mask[:, None, :]
        found.append((out, jnp.where(some, lse, 0.0)))
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
        out = out.reshape(d_out.shape)
        d_query, d_key, d_value = gradients(query, key, value, allowed, form.scale, out, lse, d_out)
        d_queries.append(_there(d_query.reshape(grad.shape), stream.mask))
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


def _joined(form: Form, stream: Queries, sources: list[Source]) -> tuple[Array, Array, Allowed]:
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


def _there(array: Array, mask: Array | None) -> Array:
    return array if mask is None else jnp.where(mask[..., None], array, 0)


def _heads(form: Form, array: Array, mask: Array | None) -> Float[Array, "b t h d"]:
    return _there(array, mask).reshape(*array.shape[:2], form.heads, -1)

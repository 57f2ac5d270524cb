"""Stream attention said plainly, in float32 at least: what every other backend must equal."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source, segments

HIGHEST = jax.lax.Precision.HIGHEST


def forward(
    form: Form, queries: Sequence[Queries], sources: Sequence[Source], *, logs: bool = True
) -> list[tuple[Float[Array, "b q hd"], Float[Array, "b h q"]]]:
    """Of each stream softmax(scale · query keyᵀ) value by head, over all the sources it reads, and
    the logarithm of the sum of the exponentials. A token that may read nothing gets 0 and 0.

    Without `logs` kernels do not write the logarithms, and give something else in their place.
    """
    return [
        _one(form, stream, [sources[n] for n in read])
        for stream, read in zip(queries, form.reads, strict=True)
    ]


def unsupported(*_: Any) -> Reason:
    return None


def backward(
    form: Form,
    queries: Sequence[Queries],
    sources: Sequence[Source],
    results: Sequence[tuple[Array, Array]],
    grads: Sequence[Float[Array, "b q hd"]],
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """Gradients of the queries, and of keys and values; `results` are what `forward` gave."""

    def outs(values: list[Array], pairs: list[tuple[Array, Array]]) -> list[Array]:
        streams = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        both = zip(pairs, sources, strict=True)
        read = [source._replace(key=key, value=value) for (key, value), source in both]
        return [out for out, _ in forward(form, streams, read)]

    values, pairs = [q.values for q in queries], [(s.key, s.value) for s in sources]
    return jax.vjp(outs, values, pairs)[1](list(grads))


def _one(form: Form, stream: Queries, sources: list[Source]) -> tuple[Array, Array]:
    dtype = jnp.promote_types(stream.values.dtype, jnp.float32)
    query = _heads(form, stream.values, stream.mask, dtype)
    key = jnp.concatenate([_heads(form, s.key, s.mask, dtype) for s in sources], axis=1)
    value = jnp.concatenate([_heads(form, s.value, s.mask, dtype) for s in sources], axis=1)
    there = jnp.concatenate([mask_of(s.key, s.mask) for s in sources], axis=1)
    allowed = mask_of(stream.values, stream.mask)[:, None, :, None] & there[:, None, None, :]
    theirs = jnp.concatenate([segments(s) for s in sources], axis=1)
    allowed &= segments(stream)[:, None, :, None] == theirs[:, None, None, :]
    scores = form.scale * jnp.einsum("bqhd,bkhd->bhqk", query, key, precision=HIGHEST)
    low = jnp.finfo(dtype).min
    peak = jax.lax.stop_gradient(jnp.max(jnp.where(allowed, scores, low), axis=-1, keepdims=True))
    mass = jnp.where(allowed, jnp.exp(jnp.where(allowed, scores - peak, 0.0)), 0.0)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    some = total > 0
    total = jnp.where(some, total, 1.0)
    out = jnp.einsum("bhqk,bkhd->bqhd", mass / total, value, precision=HIGHEST)
    lse = jnp.where(some, jnp.log(total) + peak, 0.0)[..., 0]
    return out.reshape(stream.values.shape).astype(stream.values.dtype), lse


def _heads(form: Form, array: Array, mask: Array | None, dtype: jnp.dtype) -> Array:
    """`[b, t, h, d]` with zeros for what is not there."""
    array = array if mask is None else jnp.where(mask[..., None], array, 0)
    return array.astype(dtype).reshape(*array.shape[:2], form.heads, -1)


def mask_of(array: Array, mask: Array | None) -> Array:
    """The mask, or one in which all is there."""
    return jnp.ones(array.shape[:2], bool) if mask is None else mask

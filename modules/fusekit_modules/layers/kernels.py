"""Attention by kernels (`fusekit_modules.ops.stream_attention`), where they can and it pays."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import KeyValue
from fusekit_modules.layers.sight import Mask, Sight
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.stream_attention import Queries, Source, stream_attention
from fusekit_modules.ops.stream_attention.op import plan

AHEAD = ("gpu",)
"""Platforms on which the kernels were measured to be ahead of XLA (docs/kernels.md); elsewhere they
run if asked for. So they do in float32, in which the portable form obeys JAX's precision."""


def by_kernel(
    query: Float[Array, "b q h k"],
    sources: Sequence[KeyValue],
    masks: Sequence[Mask | Sight],
    context: Context,
) -> tuple[Float[Array, "b q h k"], Bool[Array, "b q"] | None] | None:
    """What the queries read of all keys, and which of them read anything (`None`: all); `None` if
    the portable form is to be taken. `masks` intersect.

    Raises `BackendError` if kernels are asked for by name and cannot.
    """
    asked = context.kernel
    if context.device is None or asked == "xla":
        return None
    try:
        target = Target.of(context.device)
    except FusekitError:
        if asked == "auto":
            return None
        raise
    if asked == "auto" and (target.platform not in AHEAD or query.dtype == jnp.float32):
        return None
    reason = _unfit(masks, target if asked == "pallas" else None, context)
    if reason and asked != "auto":
        raise BackendError(f"{context.path}: attention cannot use `kernel: {asked}`: {reason}")
    if reason:
        return None
    keys = _of_keys(masks, query.shape[0])
    given = [Queries(_flat(query))], _sources(query, sources, keys)
    more: dict[str, Any] = {"heads": query.shape[2], "target": target, "layout": context.layout}
    more["backend"] = target.platform if asked == "pallas" else asked
    if asked == "auto" and plan(*given, **more).forward.backend != target.platform:
        return None
    (mixed,) = stream_attention(*given, **more)
    seen = None if keys is None else jnp.broadcast_to(jnp.any(keys, 1)[:, None], query.shape[:2])
    return mixed.reshape(query.shape), seen


def _unfit(masks: Sequence[Mask | Sight], kernels: Target | None, context: Context) -> str | None:
    """Why kernels cannot; `None` if they may."""
    if kernels is not None and kernels.platform == "cpu":
        return "there are no kernels for CPUs"
    if "attention" in context.collector.wants:
        return "attention maps are asked for"
    if any(isinstance(mask, Sight) or mask.shape[-2] != 1 for mask in masks):
        return "what may be read differs from query to query"
    return None


def _of_keys(masks: Sequence[Any], batch: int) -> Bool[Array, "b k"] | None:
    """Which keys may be read."""
    if not masks:
        return None
    both = reduce(jnp.logical_and, [mask[..., 0, :] for mask in masks])
    return jnp.broadcast_to(both, (batch, both.shape[-1]))


def _sources(query: Array, sources: Sequence[KeyValue], keys: Array | None) -> list[Source]:
    """Keys and values in the dtype of the queries, each source with its part of the mask."""
    found, at = [], 0
    for source in sources:
        count = source.key.shape[1]
        mask = None if keys is None else jax.lax.slice_in_dim(keys, at, at + count, axis=1)
        key, value = (_flat(x.astype(query.dtype)) for x in (source.key, source.value))
        found.append(Source(key, value, mask))
        at += count
    return found


def _flat(x: Float[Array, "b t h k"]) -> Float[Array, "b t hk"]:
    return x.reshape(*x.shape[:2], -1)

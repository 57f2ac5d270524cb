"""Attention by kernels (`fusekit_modules.ops.stream_attention`), where they can and it pays."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.layered import KeyValue
from fusekit_modules.layers.sight import Mask, Sight
from fusekit_modules.ops import Target
from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.rule import able, chosen, target_of
from fusekit_modules.ops.stream_attention import Queries, Source, stream_attention, unsupported
from fusekit_modules.ops.stream_attention.tpu import LONGEST

MEASURED = "it was measured to be ahead in half precision"
"""Of the kernels on GPUs (docs/kernels.md). In float32 the portable form obeys JAX's precision."""


def by_kernel(
    query: Float[Array, "b q h k"],
    sources: Sequence[KeyValue],
    masks: Sequence[Mask | Sight],
    context: Context,
) -> tuple[Float[Array, "b q h k"], Bool[Array, "b q"] | None] | None:
    """What the queries read of all keys, and which of them read anything (`None`: all); `None` if
    the portable form is to be taken. `masks` intersect.

    Raises `BackendError` if the component asks by name for what cannot.
    """
    target, unfit = target_of(context), _unfit(masks, context)

    def reason(backend: str) -> Reason:
        if unfit is not None:
            return unfit
        return unsupported(backend, *_shapes(query, sources), heads=query.shape[2], target=target)

    longest = max(array.shape[1] for array in (query, *(source.key for source in sources)))
    kernels = ("gpu", "tpu", "splash") if longest > LONGEST else ("gpu", "tpu")
    choice = chosen(
        context,
        "attention",
        {
            **{name: partial(reason, name) for name in kernels},
            "xla": able,
            "reference": partial(reason, "reference"),
        },
        doubts=dict.fromkeys(kernels, partial(_doubt, query, target)),
        because={"gpu": MEASURED},
        shapes=(query, *(source.key for source in sources)),
    )
    if choice.backend == "xla":
        return None
    keys = _of_keys(masks, query.shape[0])
    (mixed,) = stream_attention(
        [Queries(_flat(query))],
        _sources(query, sources, keys),
        heads=query.shape[2],
        target=target,
        layout=context.layout,
        backend=choice.backend,
    )
    seen = None if keys is None else jnp.broadcast_to(jnp.any(keys, 1)[:, None], query.shape[:2])
    return mixed.reshape(query.shape), seen


def in_a_ring(query: Float[Array, "b q h k"], context: Context) -> None:
    """Notes that attention goes round a ring of devices, in plain JAX.

    Raises `BackendError` if the component asks by name for something else.
    """

    def reason() -> Reason:
        return "tokens are split over the mesh, and attention goes round the ring"

    given = {"gpu": reason, "tpu": reason, "xla": able, "reference": reason}
    chosen(context, "attention", given, shapes=[query])


def _doubt(query: Float[Array, "b q h k"], target: Target) -> Reason:
    """Why `auto` leaves a kernel alone."""
    if target.platform != "gpu":
        return f"it has not been measured on a {target.platform.upper()}"
    if query.dtype == jnp.float32:
        return "in float32 it does not obey jax.default_matmul_precision"
    return None


def _unfit(masks: Sequence[Mask | Sight], context: Context) -> Reason:
    """Why only the portable form can; `None` if others may."""
    if "attention" in context.collector.wants:
        return "attention maps are asked for"
    if any(isinstance(mask, Sight) or mask.shape[-2] != 1 for mask in masks):
        return "what may be read differs from query to query"
    return None


def _shapes(query: Array, sources: Sequence[KeyValue]) -> tuple[list[Queries], list[Source]]:
    """What the operation would be given, without its contents and masks."""

    def flat(array: Array) -> Any:
        shape = (*array.shape[:2], array.shape[2] * array.shape[3])
        return jax.ShapeDtypeStruct(shape, query.dtype)

    return [Queries(flat(query))], [Source(flat(s.key), flat(s.value)) for s in sources]


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

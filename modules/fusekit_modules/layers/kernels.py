"""Attention by kernels (`fusekit_modules.ops.stream_attention`), where they can and it pays."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.layered import KeyValue
from fusekit_modules.layers.allowed import Allowed
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
    target, found = target_of(context), Allowed.of(masks, query.shape[0])
    allowed, unfit = (Allowed(), found) if isinstance(found, str) else (found, None)
    if "attention" in context.collector.wants:
        unfit = "attention maps are asked for"

    def reason(backend: str) -> Reason:
        if unfit is not None:
            return unfit
        shapes = jax.eval_shape(partial(_given, query, sources), allowed)
        return unsupported(backend, *shapes, heads=query.shape[2], target=target)

    longest = max(array.shape[1] for array in (query, *(source.key for source in sources)))
    long = longest > LONGEST or allowed.segments is not None
    kernels = ("gpu", "tpu", "splash") if long else ("gpu", "tpu")
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
    (mixed,) = stream_attention(
        *_given(query, sources, allowed),
        heads=query.shape[2],
        target=target,
        layout=context.layout,
        backend=choice.backend,
    )
    return mixed.reshape(query.shape), allowed.seen(query.shape[1])


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


def _given(
    query: Array, sources: Sequence[KeyValue], allowed: Allowed
) -> tuple[list[Queries], list[Source]]:
    """Queries, and keys and values in their dtype, each source with its part of what may be
    read."""
    own = None if allowed.segments is None else allowed.segments[0]
    read, at = [], 0
    for source in sources:
        stop = at + source.key.shape[1]
        key, value = (_flat(x.astype(query.dtype)) for x in (source.key, source.value))
        read.append(Source(key, value, *allowed.cut(at, stop)))
        at = stop
    return [Queries(_flat(query), None, own)], read


def _flat(x: Float[Array, "b t h k"]) -> Float[Array, "b t hk"]:
    return x.reshape(*x.shape[:2], -1)

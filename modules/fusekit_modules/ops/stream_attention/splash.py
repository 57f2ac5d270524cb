"""Stream attention of long or packed streams on TPUs, by the splash attention that JAX brings.

Heads get an axis of their own, which copies; short streams without segments have kernels that do
not (`tpu`). Each stream is a launch. It has a gradient of its own, so that both passes are its.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Bool, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.stream_attention.form import (
    Form,
    Queries,
    Source,
    longest,
    packed,
    segments,
)
from fusekit_modules.ops.stream_attention.tpu import LONGEST, unfit
from fusekit_modules.ops.target import Target

TILE = 128
"""Lengths are filled up to a multiple of it."""
TILES = (512, 384, 256, 128)
"""Largest first; the first that divides a length is taken."""
NOWHERE = -(1 << 31)
"""The segment of keys that are not there: no token's own."""


def unsupported(
    target: Target, form: Form, queries: Sequence[Queries], sources: Sequence[Source]
) -> Reason:
    """Why it cannot."""
    if (reason := unfit(target, form, queries, heads_of=64)) is not None:
        return reason
    tokens = longest(queries, sources)
    if tokens <= LONGEST and not packed(queries, sources):
        return f"{tokens} tokens are few enough for the kernel that copies nothing"
    return None


def forward(
    form: Form, queries: Sequence[Queries], sources: Sequence[Source], *, logs: bool = False
) -> list[tuple[Float[Array, "b q hd"], None]]:
    """As `reference.forward`, without logarithms; JAX knows its gradient."""
    found = []
    for stream, read in zip(queries, form.reads, strict=True):
        given, some = _given(form, stream, [sources[n] for n in read])
        out = _kernel(form, *given[:2])(*given)
        found.append((_where(_flat(out)[:, : some.shape[1]], some), None))
    return found


def _given(form: Form, stream: Queries, sources: list[Source]) -> tuple[Any, Bool[Array, "b q"]]:
    """Queries, keys, values and segments as the kernel takes them, and which queries read anything.

    Keys that are not there are of a segment of their own, which no token reads.
    """
    query = _there(stream.values, stream.mask) * form.scale
    key = jnp.concatenate([_there(s.key, s.mask) for s in sources], axis=1)
    value = jnp.concatenate([_there(s.value, s.mask) for s in sources], axis=1)
    readable = jnp.concatenate([_mask(s.mask, s.key) for s in sources], axis=1)
    own, theirs = segments(stream), jnp.concatenate([segments(s) for s in sources], axis=1)
    theirs = jnp.where(readable, theirs, NOWHERE)
    if packed([stream], sources):
        some = jnp.any(own[:, :, None] == theirs[:, None], axis=2)
    else:
        some = jnp.any(readable, axis=1, keepdims=True)
    ids = splash.SegmentIds(_filled(own), _filled(theirs, NOWHERE))
    arrays = (_heads(form, _filled(array)) for array in (query, key, value))
    return (*arrays, ids), some & _mask(stream.mask, query)


def _kernel(form: Form, query: Float[Array, "b h q d"], key: Float[Array, "b h k d"]) -> Any:
    """The kernel for arrays of these sizes."""
    sizes = query.shape[2], key.shape[2]
    q, k = (next(tile for tile in TILES if size % tile == 0) for size in sizes)
    tiles = splash.BlockSizes(
        block_q=q,
        block_kv=k,
        block_q_dkv=q,
        block_kv_dkv=k,
        block_q_dq=q,
        block_kv_dq=k,
    )
    whole = splash.MultiHeadMask([splash.FullMask(sizes)] * form.heads)
    made = splash.make_splash_mha_single_device(whole, block_sizes=tiles, interpret=form.interpret)
    return jax.vmap(made)


def _mask(mask: Bool[Array, "b t"] | None, array: Array) -> Bool[Array, "b t"]:
    return jnp.ones(array.shape[:2], bool) if mask is None else mask


def _filled(array: Array, value: int = 0) -> Array:
    """With a value after the last token, up to a multiple of a tile."""
    more = -array.shape[1] % TILE
    widths = ((0, 0), (0, more), *[(0, 0)] * (array.ndim - 2))
    return jnp.pad(array, widths, constant_values=value)


def _where(array: Float[Array, "b t hd"], there: Bool[Array, "b t"]) -> Float[Array, "b t hd"]:
    return jnp.where(there[..., None], array, 0)


def _there(array: Float[Array, "b t hd"], mask: Bool[Array, "b t"] | None) -> Array:
    return array if mask is None else _where(array, mask)


def _heads(form: Form, array: Float[Array, "b t hd"]) -> Float[Array, "b h t d"]:
    return array.reshape(*array.shape[:2], form.heads, -1).swapaxes(1, 2)


def _flat(array: Float[Array, "b h t d"]) -> Float[Array, "b t hd"]:
    array = array.swapaxes(1, 2)
    return array.reshape(*array.shape[:2], -1)

"""Multi-head attention over streams."""

from collections.abc import Mapping, Sequence
from functools import reduce

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import KeyValue
from fusekit.stream import Stream
from fusekit_modules.layers.dot_product import dot_product
from fusekit_modules.layers.kernels import by_kernel, in_a_ring
from fusekit_modules.layers.linear import Deltas, Linear
from fusekit_modules.layers.mix import mix
from fusekit_modules.layers.place import Place
from fusekit_modules.layers.ring_attention import ring_attention
from fusekit_modules.layers.rotary import rotate
from fusekit_modules.layers.sight import Mask, Sight
from fusekit_modules.layers.way import way_of


def both(masks: Sequence[Mask | None]) -> Mask | None:
    """Where all the masks are true. `None`: everywhere."""
    given = [mask for mask in masks if mask is not None]
    return reduce(jnp.logical_and, given) if given else None


def readable(sources: Sequence[KeyValue]) -> Bool[Array, "b 1 k"] | None:
    """Keys that are neither padded nor absent, side by side. `None`: all."""
    if all(source.tokens.valid() is None for source in sources):
        return None
    columns = []
    for source in sources:
        valid = source.tokens.valid()
        columns.append(jnp.ones(source.key.shape[:2], bool) if valid is None else valid)
    return jnp.concatenate(columns, axis=1)[:, None, :]


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

    Keys have no bias: it adds the same to all scores of a query, which softmax does not see. For
    `remat` it names `projections` (queries, keys and values) and `attention` (the values as they
    are mixed, before the last projection, and the logarithms of the sums where there are some).

    Args:
      width: size of the queries' last axis, and of what comes out.
      heads: how many heads.
      head_dim: size of a head; default `width / heads`.
      source_width: size of the keys' last axis; default `width`.
      rotary: turn queries and keys by their positions.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_dim: int | None = None,
        source_width: int | None = None,
        rotary: bool = False,
        rngs: nnx.Rngs,
    ):
        self.rotary = rotary
        head_dim = head_dim or width // heads
        source = source_width or width
        inward, outward = ("embed", "heads", "head_dim"), ("heads", "head_dim", "embed")
        self.query = Linear(width, (heads, head_dim), axes=inward, rngs=rngs)
        self.key = Linear(source, (heads, head_dim), axes=inward, bias=False, rngs=rngs)
        self.value = Linear(source, (heads, head_dim), axes=inward, rngs=rngs)
        self.out = Linear((heads, head_dim), width, axes=outward, rngs=rngs)

    def queries(
        self, stream: Stream, weights: Mapping[str, Deltas] | None = None
    ) -> Float[Array, "b q h k"]:
        query = self.query(stream.values, (weights or {}).get("query", ()))
        query = rotate(query, stream.positions()) if self.rotary else query
        return checkpoint_name(query, "projections")

    def keys_values(self, stream: Stream, weights: Mapping[str, Deltas] | None = None) -> KeyValue:
        """Keys and values of a stream that is already normalised, for this or another layer."""
        weights = weights or {}
        if stream.width != self.key.inputs[0]:
            raise FusekitError(
                f"attention projects keys of width {self.key.inputs[0]}, not {stream.width}"
            )
        key = self.key(stream.values, weights.get("key", ()))
        value = self.value(stream.values, weights.get("value", ()))
        if self.rotary:
            key = rotate(key, stream.positions())
        key, value = (checkpoint_name(one, "projections") for one in (key, value))
        return KeyValue(key, value, stream)

    def read(
        self,
        query: Float[Array, "b q h k"],
        sources: Sequence[KeyValue],
        *,
        masks: Sequence[Mask | Sight | None] = (),
        weights: Mapping[str, Deltas] | None = None,
        context: Context,
    ) -> Float[Array, "b q d"]:
        """What the queries read of all sources together. Padded and absent keys are not read; a
        query that may read nothing gets exact zeros, without the bias."""
        for source in sources:
            if source.key.shape[2:] != query.shape[2:]:
                raise FusekitError(
                    f"keys of {source.key.shape[2]} heads of size {source.key.shape[3]} meet "
                    f"queries of {query.shape[2]} heads of size {query.shape[3]}"
                )
        given = [mask for mask in (readable(sources), *masks) if mask is not None]
        place = Place.of(context.layout, query, [source.key.shape[1] for source in sources])
        if place is not None and "attention" not in context.collector.wants:
            in_a_ring(query, context)
            pairs = [(s.key.astype(query.dtype), s.value.astype(query.dtype)) for s in sources]
            mixed, some = ring_attention(query, pairs, given, place)
            mixed, seen = checkpoint_name(mixed, "attention"), some if given else None
        elif found := by_kernel(query, sources, given, context):
            mixed, seen = checkpoint_name(found[0], "attention"), found[1]
        else:
            mixed, seen = self._whole(query, sources, given, context)
        out = self.out(mixed, (weights or {}).get("out", ()))
        if seen is None:
            return out
        return jnp.where(seen[..., None], out, jnp.zeros((), out.dtype))

    def _whole(
        self,
        query: Float[Array, "b q h k"],
        sources: Sequence[KeyValue],
        masks: Sequence[Mask | Sight],
        context: Context,
    ) -> tuple[Float[Array, "b q h k"], Bool[Array, "*b q"] | None]:
        """With all keys at once; and which queries read anything, if masks say so."""
        key = jnp.concatenate([source.key.astype(query.dtype) for source in sources], axis=1)
        value = jnp.concatenate([source.value.astype(query.dtype) for source in sources], axis=1)
        mask = both([mask.whole() if isinstance(mask, Sight) else mask for mask in masks])
        seen = None if mask is None else jnp.any(mask, axis=-1)
        if "attention" not in context.collector.wants:
            return mix(way_of(context, query, key.shape[1]), query, key, value, mask), seen
        mixed, attention = dot_product(query, key, value, mask)
        context.collect("attention", attention)
        return checkpoint_name(mixed, "attention"), seen

    def __call__(
        self,
        stream: Stream,
        source: Stream | None = None,
        *,
        masks: Sequence[Mask | Sight | None] = (),
        context: Context,
    ) -> Float[Array, "b q d"]:
        """The stream reads `source`, or itself. `masks` (`[*b, q, k]`) intersect."""
        keys = self.keys_values(stream if source is None else source)
        return self.read(self.queries(stream), [keys], masks=masks, context=context)

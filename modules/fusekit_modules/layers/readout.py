"""Learned tokens that stand before a sequence and gather what is to be read out."""

from dataclasses import replace

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from fusekit.parameter import parameter
from fusekit.stream import Signature, Span, Stream, label_id


def common_label(spans: tuple[Span, ...]) -> str:
    """The label that all spans share; `readout` where they differ."""
    labels = {span.label for span in spans}
    return labels.pop() if len(labels) == 1 else "readout"


def with_readouts(signature: Signature, count: int) -> Signature:
    """A sequence with so many readout tokens before it."""
    if count == 0:
        return signature
    span = Span(common_label(signature.spans), count, readout=True)
    sizes = (("time", signature.length + count), *signature.sizes[1:])
    return replace(signature, sizes=sizes, spans=(span, *signature.spans))


class Readouts(nnx.Module):
    """`count` learned tokens (Devlin et al. 2019, the class token), always valid in a sample that
    is present. They carry the label that all tokens share, else `readout`."""

    def __init__(self, count: int, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.tokens = parameter(rngs, init, (count, width), (None, "embed"))

    def __call__(self, stream: Stream) -> Stream:
        """The tokens, then the stream's."""
        count, width = self.tokens.shape
        tokens = self.tokens[...].astype(stream.values.dtype)
        tokens = jnp.broadcast_to(tokens, (stream.batch, count, width))
        label = common_label(stream.spans)
        mask = stream.mask
        if mask is not None:
            mask = jnp.concatenate([jnp.ones((stream.batch, count), bool), mask], axis=1)
        return stream.with_(
            values=jnp.concatenate([tokens, stream.values], axis=1),
            mask=mask,
            label=_before(stream.label, jnp.full((count,), label_id(label), jnp.int32)),
            item=_before(stream.item, jnp.zeros((count,), jnp.int32)),
            segment=_before(stream.segment, jnp.zeros((count,), jnp.int32)),
            position=_before(stream.position, jnp.arange(count, dtype=jnp.int32)),
            spans=(Span(label, count, readout=True), *stream.spans),
        )


def _before(array: Array | None, first: Array) -> Array | None:
    """`first [n]` in front of a description `[time]` or `[b, time]`, if there is one."""
    if array is None:
        return None
    first = jnp.broadcast_to(first.astype(array.dtype), (*array.shape[:-1], first.shape[0]))
    return jnp.concatenate([first, array], axis=-1)

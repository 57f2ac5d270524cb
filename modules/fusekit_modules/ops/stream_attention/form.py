"""What is asked of stream attention: its arguments, and which stream reads what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fusekit.errors import FusekitError


class Queries(NamedTuple):
    """Tokens of one stream that read, heads side by side on the last axis.

    A token whose `mask` is false is not there, whatever its values: it reads nothing, and what
    comes of it is zero. No mask: all are there. A token reads those of its own `segment` alone; no
    segments: all are of segment 0.
    """

    values: Float[Array, "b q hd"]
    mask: Bool[Array, "b q"] | None = None
    segment: Int[Array, "b q"] | None = None


class Source(NamedTuple):
    """Keys and values of tokens that are read. Where `mask` is false they are not there, whatever
    the contents. No mask: all are there; no segments: all are of segment 0."""

    key: Float[Array, "b k hd"]
    value: Float[Array, "b k hd"]
    mask: Bool[Array, "b k"] | None = None
    segment: Int[Array, "b k"] | None = None


SEGMENTS = "what may be read differs from segment to segment"
"""Why a kernel cannot that knows none."""


def packed(queries: Sequence[Queries], sources: Sequence[Source]) -> bool:
    """Whether tokens are of segments."""
    return any(given.segment is not None for given in (*queries, *sources))


def longest(queries: Sequence[Queries], sources: Sequence[Source]) -> int:
    """Tokens of the longest stream or source."""
    return max(given[0].shape[1] for given in (*queries, *sources))


def segments(given: Queries | Source) -> Int[Array, "b t"]:
    """Of each token."""
    none = given[0].shape[:2]
    return jnp.zeros(none, jnp.int32) if given.segment is None else given.segment


Reads = tuple[tuple[int, ...], ...]
"""Of each stream, which sources it reads, by number."""


@dataclass(frozen=True)
class Form:
    """What does not depend on the arrays' contents.

    Args:
      heads: how many heads share the last axis.
      scale: what scores are multiplied with.
      reads: of each stream, the sources it reads; softmax is over all of them together.
      interpret: kernels are interpreted, on whatever device there is.
    """

    heads: int
    scale: float
    reads: Reads
    interpret: bool = False

    def readers(self, source: int) -> tuple[int, ...]:
        """The streams that read a source."""
        return tuple(n for n, sources in enumerate(self.reads) if source in sources)


def own_and_shared(streams: int, sources: int) -> Reads:
    """Each stream reads the source of its own number, and all of those beyond the last stream's."""
    return tuple((n, *range(streams, sources)) for n in range(streams))


def form_of(
    queries: Sequence[Queries],
    sources: Sequence[Source],
    *,
    heads: int,
    scale: float | None,
    reads: Reads | None,
) -> Form:
    """The checked form; the scale is by default 1 / sqrt(size of a head).

    Raises `FusekitError` for shapes, dtypes or numbers of sources that do not fit.
    """
    if not queries or not sources:
        raise FusekitError("stream attention needs a stream and a source")
    if reads is None:
        if len(sources) < len(queries):
            raise FusekitError(
                f"{len(queries)} streams have only {len(sources)} sources: say what each reads"
            )
        reads = own_and_shared(len(queries), len(sources))
    batch, _, width = queries[0].values.shape
    dtype = queries[0].values.dtype
    if heads < 1 or width % heads:
        raise FusekitError(f"a width of {width} does not divide into {heads} heads")
    named = [(f"queries {n}", array.values, array.mask) for n, array in enumerate(queries)]
    named += [(f"keys {n}", source.key, source.mask) for n, source in enumerate(sources)]
    named += [(f"values {n}", source.value, source.mask) for n, source in enumerate(sources)]
    for name, array, mask in named:
        if array.ndim != 3 or (array.shape[0], array.shape[2]) != (batch, width):
            raise FusekitError(f"{name} have shape {array.shape}, not ({batch}, tokens, {width})")
        if array.dtype != dtype:
            raise FusekitError(f"{name} are {array.dtype}, not {dtype}")
        if mask is not None and (mask.shape != array.shape[:2] or mask.dtype != bool):
            raise FusekitError(
                f"the mask of {name} is {mask.dtype} of shape {mask.shape}, not bool of shape "
                f"{array.shape[:2]}"
            )
    for given in (*queries, *sources):
        array, segment = given[0], given.segment
        if segment is not None and (segment.shape != array.shape[:2] or segment.dtype != "int32"):
            raise FusekitError(
                f"segments are {segment.dtype} of shape {segment.shape}, not int32 of shape "
                f"{array.shape[:2]}"
            )
    for n, source in enumerate(sources):
        if source.key.shape != source.value.shape:
            raise FusekitError(
                f"source {n} has keys of shape {source.key.shape} and values of shape "
                f"{source.value.shape}"
            )
    if len(reads) != len(queries) or any(
        not read or len(set(read)) < len(read) or not set(read) <= set(range(len(sources)))
        for read in reads
    ):
        raise FusekitError(
            f"{len(queries)} streams cannot read {reads}: each reads one or more of the sources "
            f"0 to {len(sources) - 1}, each once"
        )
    unread = set(range(len(sources))) - {n for read in reads for n in read}
    if unread:
        raise FusekitError(f"no stream reads the source {min(unread)}: leave it out")
    scale = 1 / math.sqrt(width // heads) if scale is None else float(scale)
    return Form(heads, scale, tuple(tuple(read) for read in reads))

"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

from fusekit_modules.ops.stream_attention.form import Queries, Reads, Source, own_and_shared

Missing = Literal["none", "some", "streams", "all"]


@dataclass(frozen=True)
class Case:
    """A call of stream attention.

    Args:
      name: what it stands for.
      batch: examples.
      heads: how many.
      head_dim: their size.
      queries: tokens of each stream.
      sources: tokens of each source.
      reads: which streams read which; default: its own source, and those beyond the streams.
      missing: what is absent: nothing; padding at the end of each and a quarter of tokens; whole
        streams, about a third of them; everything. What is absent holds NaN and infinities.
      segments: into how many segments tokens are packed, in any order; 0: no segments.
    """

    name: str
    batch: int
    heads: int
    head_dim: int
    queries: tuple[int, ...]
    sources: tuple[int, ...]
    reads: Reads | None = None
    missing: Missing = "none"
    segments: int = 0

    @property
    def own(self) -> bool:
        """Whether tokens that are read are those that read, where numbers match."""
        return self.reads is None and len(self.sources) >= len(self.queries)


TESTED = (
    Case("self", 2, 2, 16, (24,), (24,)),
    Case("streams", 2, 2, 16, (20, 37, 5), (20, 37, 5)),
    Case("shared", 2, 4, 8, (18, 7), (18, 7, 4)),
    Case("latents", 2, 2, 16, (3,), (33, 10), ((0, 1),)),
    Case("both ways", 2, 1, 24, (9, 4), (12, 4), ((0, 1), (1,))),
)
"""Small, with lengths that divide by nothing; for interpreted kernels."""

PACKED = (
    Case("packed", 2, 2, 16, (24,), (24,), segments=3),
    Case("packed, shared", 2, 2, 16, (18, 7), (18, 7, 4), segments=2),
    Case("packed latents", 2, 1, 16, (5,), (33, 10), ((0, 1),), segments=4),
)
"""Small; tokens of several segments side by side."""

TIMED = (
    Case("bottleneck", 32, 12, 64, (200, 404, 36), (200, 404, 36)),
    Case("bottleneck, streams absent", 32, 12, 64, (200, 404, 36), (200, 404, 36), None, "streams"),
    Case("shared tokens", 32, 12, 64, (196, 400, 32), (196, 400, 32, 4)),
    Case("image tokens, padded", 64, 12, 64, (197,), (197,), None, "some"),
    Case("text and image, early", 32, 12, 64, (512,), (512,), None, "some"),
    Case("latents read", 32, 8, 64, (64,), (784, 400), ((0, 1),), "streams"),
)
"""What models ask: MBT-B with 4 bottleneck tokens, shared tokens, ViT-B, early fusion, a resampler
of 64 latents."""


def masks(case: Case, rng: np.random.Generator) -> tuple[list, list]:
    """Masks of streams and of sources, or `None` each."""

    def one(length: int) -> np.ndarray | None:
        if case.missing == "none":
            return None
        if case.missing == "all":
            return np.zeros((case.batch, length), bool)
        if case.missing == "streams":
            there = rng.random(case.batch) > 1 / 3
            there[0], there[-1] = True, False
            return np.repeat(there[:, None], length, axis=1)
        ends = rng.integers(1, length + 1, case.batch)
        return (np.arange(length) < ends[:, None]) & (rng.random((case.batch, length)) > 0.25)

    sources = [one(length) for length in case.sources]
    if case.own:
        return sources[: len(case.queries)], sources
    return [one(length) for length in case.queries], sources


def segments(case: Case, rng: np.random.Generator) -> tuple[list, list]:
    """Segments of streams and of sources, or `None` each."""

    def one(length: int) -> jnp.ndarray | None:
        if not case.segments:
            return None
        return jnp.asarray(rng.integers(0, case.segments, (case.batch, length)), jnp.int32)

    sources = [one(length) for length in case.sources]
    if case.own:
        return sources[: len(case.queries)], sources
    return [one(length) for length in case.queries], sources


def arrays(
    case: Case, dtype: jnp.dtype | type = jnp.float32, *, seed: int = 0
) -> tuple[tuple[Queries, ...], tuple[Source, ...]]:
    """Normal values; what is absent holds NaN and infinities."""
    rng = np.random.default_rng(seed)
    of_queries, of_sources = masks(case, rng)

    def values(length: int, mask: np.ndarray | None) -> jnp.ndarray:
        found = rng.standard_normal((case.batch, length, case.heads * case.head_dim))
        if mask is not None:
            found[~mask] = rng.choice([np.nan, np.inf, -np.inf], found[~mask].shape)
        return jnp.asarray(found, dtype)

    def given(mask: np.ndarray | None) -> jnp.ndarray | None:
        return None if mask is None else jnp.asarray(mask)

    own, theirs = segments(case, np.random.default_rng(seed + 1))
    queries = tuple(
        Queries(values(n, m), given(m), s)
        for n, m, s in zip(case.queries, of_queries, own, strict=True)
    )
    sources = tuple(
        Source(values(n, m), values(n, m), given(m), s)
        for n, m, s in zip(case.sources, of_sources, theirs, strict=True)
    )
    return queries, sources


def reads_of(case: Case) -> Reads:
    return case.reads or own_and_shared(len(case.queries), len(case.sources))

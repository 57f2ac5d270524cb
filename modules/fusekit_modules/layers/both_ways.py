"""Scans over the tokens of a stream, in one way or in both."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.stream import Stream
from fusekit_modules.layers.begins import Marks
from fusekit_modules.layers.short_conv import runs_of

Way = Callable[..., Float[Array, "b t *c"]]
"""What reads arrays of tokens from the first to the last. It is told by name the `runs` that
convolutions keep to, where to `reset`, and which tokens are `valid`; each may be `None`."""


def both_ways(
    stream: Stream,
    marks: Marks | None,
    tokens: Sequence[Array],
    ways: Sequence[Way],
) -> Float[Array, "b t *c"]:
    """What the first way reads of `tokens [b, t, ...]`, and what the second, if there is one, reads
    of them from the last to the first, added (Zhu et al. 2024). `marks` say where both begin
    anew."""
    valid, spans = stream.valid(), [span.size for span in stream.spans]
    reset = None if marks is None else marks.begins(stream.batch)
    y = ways[0](*tokens, runs=runs_of(spans, reset), reset=reset, valid=valid)
    if len(ways) == 1:
        return y
    reset = None if marks is None else marks.reversed().begins(stream.batch)
    more: dict[str, Any] = {"reset": reset, "valid": None if valid is None else jnp.flip(valid, 1)}
    flipped = [jnp.flip(one, 1) for one in tokens]
    return y + jnp.flip(ways[1](*flipped, runs=runs_of(spans[::-1], reset), **more), 1)

"""Vectors and tokens alike as nodes: a vector is a sequence of one."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from fusekit.component import Signatures
from fusekit.stream import Signature, Span, Stream, sequence
from fusekit_modules.layers.expect import expect_count, expect_sequence, expect_vector


def node_signatures(inputs: Signatures, *, least: int = 1) -> dict[str, Signature]:
    """The inputs as sequences; a vector's only token has the name of its node as label. Raises
    `WiringError` for what is neither a vector nor a sequence of features."""
    expect_count(inputs, least=least)
    found = {}
    for role, given in inputs.items():
        if given.kind == "vector":
            label = role.removeprefix("batch.").split("@")[0].split(".")[0]
            width, optional = expect_vector(given, role).width, given.optional
            found[role] = sequence(1, width, label=label, optional=optional)
        else:
            found[role] = expect_sequence(given, role)
    return found


def nodes(
    streams: Mapping[str, Stream], spans: Sequence[tuple[Span, ...]], dtype: jnp.dtype | None = None
) -> list[Stream]:
    """The streams as sequences `[b, t, d]` with these spans, zero where padded or absent."""
    found = []
    for stream, own in zip(streams.values(), spans, strict=True):
        values = stream.clean().values
        values = values[:, None] if values.ndim == 2 else values
        found.append(stream.with_(values=values, spans=own, grid=()))
    return found

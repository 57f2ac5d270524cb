"""What turns streams into another sequence: a stream of its own, or tokens put into a stack."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, Signatures, Width
from fusekit.errors import WiringError
from fusekit.stream import (
    Signature,
    Span,
    Stream,
    concatenate,
    concatenate_signatures,
    sequence,
    span_bounds,
)
from fusekit_modules.fusion._insert import Inserting, InsertSpec
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.layers.linear import Linear

Grid = tuple[tuple[str, int], ...]
Sizes = tuple[Count, ...]


class CompressorSpec(InsertSpec):
    """Root of what turns its inputs into a sequence. Several inputs are read one after another, as
    `concat` joins them; a feature map is read as its tokens in row-major order. A sample without a
    valid token gives padding."""

    width: Width | None = Field(
        None, description="size of the tokens; default that of the stack, else of the input"
    )

    def infer(self, inputs: Signatures) -> Any:
        """The tokens as a stream. Raises `WiringError`."""
        return self.infer_tokens(inputs, self.out_width(inputs))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Inserting":
        return self.build_tokens(inputs, self.out_width(inputs), rngs=rngs)

    def out_width(self, inputs: Signatures) -> int:
        return self.width or joined_signature(inputs).width

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        (edited,) = super().infer_edit(streams, reads)
        if self.width not in (None, edited.width):
            raise WiringError(
                "the tokens have the width of the stack that they are put into",
                found=self.width,
                expected=f"{edited.width}, or no width",
                field=("width",),
            )
        return (edited,)


def flat_signature(given: Signature, role: str) -> Signature:
    """A sequence as it is, or a grid of channels as a sequence. Raises `WiringError` for others."""
    if given.kind != "grid" or given.axes[-1] != "channel" or given.dtype != "float":
        return expect_sequence(given, role)
    grid, label = given.sizes[:-1], named(given.spans, role)
    length = math.prod(size for _, size in grid)
    out = sequence(length, given.width, label=label, grid=grid)
    return out.with_(padded=given.padded, optional=given.optional)


def flat(given: Stream, role: str) -> Stream:
    """A sequence, without contents where padded or absent; a grid's tokens in row-major order."""
    given, mask = given.clean(), given.mask
    if given.values.ndim <= 3:
        return given
    values = given.values.reshape(given.batch, -1, given.width)
    if mask is not None:
        mask = jnp.repeat(mask, values.shape[1] // mask.shape[1], axis=1)
    spans = (Span(named(given.spans, role), values.shape[1]),)
    return Stream(values, mask, given.presence, spans=spans)


def named(spans: tuple[Span, ...], role: str) -> str:
    """The label that a grid carries; for one that has none, the name of the node."""
    return spans[0].label if spans else role.removeprefix("batch.").split("@")[0].split(".")[0]


def joined_signature(inputs: Signatures) -> Signature:
    """The inputs one after another. Raises `WiringError` unless of one width."""
    expect_count(inputs)
    given = {role: flat_signature(signature, role) for role, signature in inputs.items()}
    expect_same(given, "embed", hint="one width: give the encoders the same")
    every = list(given.values())
    return every[0] if len(every) == 1 else concatenate_signatures(every)


def joined(streams: Mapping[str, Stream]) -> Stream:
    """The inputs one after another, without contents where padded or absent."""
    given = [flat(stream, role) for role, stream in streams.items()]
    return given[0] if len(given) == 1 else concatenate(given)


def label_of(spans: Sequence[Span]) -> str:
    """The label that all share; where they differ, all of them, joined by underscores."""
    return "_".join(dict.fromkeys(span.label for span in spans))


def made(given: Signature, tokens: int, width: int, *, grid: Grid = ()) -> Signature:
    """So many new tokens from a sequence, under its label."""
    return given.with_(
        sizes=(("time", tokens), ("embed", width)),
        spans=(Span(label_of(given.spans), tokens),),
        grid=grid,
    )


def fitted(given: int, width: int, *, rngs: nnx.Rngs) -> Linear | None:
    """An affine map between two widths; `None` where they are the same."""
    axes = ("features", "embed")
    return None if given == width else Linear(given, width, axes=axes, rngs=rngs)


def data_bounds(spans: tuple[Span, ...]) -> tuple[int, int]:
    """Start and stop of the tokens that are no readout tokens, which lie side by side."""
    bare = [Span("", span.size, readout=span.readout) for span in spans]
    try:
        return span_bounds(bare, "")
    except KeyError:
        raise WiringError(
            "readout tokens stand between the others, or there are no others",
            expected="one modality: name it, such as image.image",
            field=("inputs",),
        ) from None


def grid_of(given: Signature, source: Sizes, role: str) -> Grid:
    """The grid that a sequence was flattened from: as it knows it, or as `source` says. Readout
    tokens have no part in it. Raises `WiringError` if the sizes do not fit."""
    start, stop = data_bounds(given.spans)
    names = {1: ("time",), 2: ("height", "width"), 3: ("time", "height", "width")}
    axes = names.get(len(source), ())
    grid = given.grid if not source else cast(Grid, tuple(zip(axes, source, strict=False)))
    if not grid or math.prod(size for _, size in grid) != stop - start:
        raise WiringError(
            f"{role!r} has {stop - start} tokens, which is no grid that is known",
            found=" x ".join(str(size) for _, size in grid),
            expected="tokens of an encoder such as vit, or source: the sizes of the grid",
            field=("source",),
        )
    return grid


def data(stream: Stream) -> Stream:
    """The tokens that are no readout tokens, without contents where padded or absent."""
    start, stop = data_bounds(stream.spans)
    stream = stream.clean()
    return stream if (start, stop) == (0, stream.length) else stream.cut(start, stop)

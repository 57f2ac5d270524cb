"""How tokens are put into a stack's sequence.

With `into: lm@input` they stand there from layer 0 on; at a later place, from the layer after that
place on.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int
from pydantic import Field

from fusekit.component import OperatorSpec, Signatures
from fusekit.config.reference import NAME
from fusekit.context import Context
from fusekit.errors import WiringError, nearest
from fusekit.layered import LayerOutput, Operator, Reads
from fusekit.stream import Signature, Span, Stream, concatenate
from fusekit_modules.layers.expect import expect_sequence


@dataclass(frozen=True)
class Joined(Span):
    """A run of tokens that an operator has put into a stack."""


class Needs:
    """`needs` of what puts tokens into a stack: nothing at its input, where no layer has run; of
    layers, that they take tokens beside their own, and so keep width and length."""

    def __get__(self, spec: "InsertSpec | None", owner: type) -> frozenset[str]:
        return frozenset() if spec is not None and spec.at_input else frozenset({"tokens"})


class InsertSpec(OperatorSpec):
    """Root of what puts tokens into a stack. Subclasses give `infer_tokens` and `build_tokens`.

    A prefix stands after the stack's readout tokens and after what was put there before it. The
    tokens keep their labels. Presence is the stack's: absent tokens become padding, and a sample
    that lacks the stack lacks it still. `position` counts on through the tokens, padding left out.
    """

    needs: ClassVar[frozenset[str]] = cast(Any, Needs())

    at: str = Field(
        "prefix",
        pattern=f"^{NAME}$",
        description="where: prefix, suffix, or the label of the tokens before which they stand",
    )

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """The tokens, of this width. Raises `WiringError`."""
        raise NotImplementedError

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "Inserting":
        raise NotImplementedError

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The stream with the tokens. Raises `WiringError` for more than one stack, for what is no
        sequence, and for a label that the stack does not hold."""
        if len(streams) != 1:
            message, due = "tokens are put into one stack", "one place: give each its own operator"
            raise WiringError(message, found=len(streams), expected=due, field=("into",))
        stream = expect_sequence(streams[0], "into 0", field=("into",))
        tokens = self.infer_tokens(reads, stream.width)
        before, after = parted(stream.spans, self.at)
        return (
            stream.with_(
                sizes=(("time", stream.length + tokens.length), ("embed", stream.width)),
                spans=(*before, *joined_spans(tokens.spans), *after),
                padded=stream.padded or tokens.padded or tokens.optional,
                grid=(),
            ),
        )

    @property
    def at_input(self) -> bool:
        return self.into is None or all(place.point == "input" for place in self.into)

    @property
    def once(self) -> bool:
        """Whether one module serves all places; at the input there is only one."""
        return self.share or self.at_input

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return self.build_tokens(reads, streams[0].width, rngs=rngs) if self.once else Operator()

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator | None:
        return None if self.once else self.build_tokens(reads, streams[0].width, rngs=rngs)


class Inserting(Operator):
    """Makes tokens: `module(streams, *, context) -> Stream`. As an operator it puts them into the
    stack."""

    def __init__(self, spec: InsertSpec):
        self.at = spec.at

    def __call__(self, streams: Reads, *, context: Context) -> Any:
        raise NotImplementedError

    def tokens(self, stack: Stream, reads: Reads, *, context: Context) -> Stream:
        """What is put into the stack."""
        return self(reads, context=context)

    def leave(
        self, outputs: tuple[LayerOutput, ...], reads: Reads, state: Any, *, context: Context
    ) -> tuple[tuple[Stream, ...], Any]:
        (output,) = outputs
        tokens = self.tokens(output.stream, reads, context=context)
        return (insert(output.stream, tokens, self.at),), state


def parted(spans: tuple[Span, ...], at: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The spans before and after what is put in. Raises `WiringError` for an unknown label."""
    if at == "suffix":
        return spans, ()
    for number, span in enumerate(spans):
        own = not (span.readout or isinstance(span, Joined))
        if own if at == "prefix" else span.label == at and not span.readout:
            return spans[:number], spans[number:]
    if at == "prefix":
        return spans, ()
    known = ["prefix", "suffix", *dict.fromkeys(s.label for s in spans if s.label)]
    due = f"one of {', '.join(known)}"
    raise WiringError(
        f"the stack has no tokens labelled {at}",
        expected=due + "".join(f"; did you mean {n}" for n in nearest(at, known)[:1]),
        field=("at",),
    )


def joined_spans(spans: tuple[Span, ...]) -> tuple[Joined, ...]:
    return tuple(Joined(s.label, s.size, s.items, s.readout) for s in spans)


def insert(stream: Stream, tokens: Stream, at: str) -> Stream:
    """The stream with the tokens in it."""
    before, _ = parted(stream.spans, at)
    bare, place = stream.with_(presence=None), sum(span.size for span in before)
    values, spans = tokens.values.astype(stream.values.dtype), joined_spans(tokens.spans)
    tokens = tokens.with_(values=values, spans=spans).clean()
    parts = (bare.cut(0, place), tokens, bare.cut(place, stream.length))
    whole = concatenate([part for part in parts if part.length])
    return whole.with_(position=counted(*parts), presence=stream.presence, grid=()).clean()


def counted(left: Stream, tokens: Stream, right: Stream) -> Int[Array, "*b n"]:
    """Positions: the tokens follow the last on their left, and move those on their right."""
    readout = jnp.asarray([s.readout for s in left.spans for _ in range(s.size)], bool)
    ends = jnp.where(readout, 0, left.positions() + 1)
    ends = ends if left.mask is None else jnp.where(left.mask, ends, 0)
    first = jnp.max(ends, -1) if left.length else jnp.zeros(ends.shape[:-1], ends.dtype)
    valid = tokens.valid()
    here = (jnp.ones(tokens.length, bool) if valid is None else valid).astype(jnp.int32)
    rank, count = jnp.cumsum(here, axis=-1) - here, jnp.sum(here, -1)
    parts = [left.positions(), first[..., None] + rank, right.positions() + count[..., None]]
    lead = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    parts = [jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in parts]
    return jnp.concatenate(parts, axis=-1).astype(jnp.int32)

"""How a stack takes in what it reads: embed or project, add positions, prepend readout tokens."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, Stream
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.embed import TokenEmbed
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.positions import LearnedPositions, sinusoidal
from fusekit_modules.layers.readout import Readouts, with_readouts

PositionsName = Literal["auto", "learned", "sinusoidal", "rotary", "keep", "renew"]
"""`learned` and `sinusoidal` are added to the tokens, `rotary` is left to attention, `keep` adds
none. `renew` counts positions anew over the whole sequence and adds learned ones. `auto` is
`learned` for what comes straight from the batch, `keep` for what another node has made."""


T = TypeVar("T")


def only(inputs: Mapping[str, T]) -> T:
    """The one thing that an encoder reads."""
    return next(iter(inputs.values()))


def spans_of(signature: Signature, length: int | None = None) -> tuple[Span, ...]:
    """A sequence's spans; where it has none, one nameless span of all tokens. With `length`, one
    span of that size under the label that the signature carries."""
    if length is not None:
        return (Span(signature.spans[0].label if signature.spans else "", length),)
    return signature.spans or (Span("", signature.length),)


def infer_entry(inputs: Signature, width: int | None, readout: int) -> Signature:
    """What `Entry` gives for a sequence of codes or features. Raises `WiringError`."""
    if inputs.kind != "sequence":
        raise WiringError(
            f"a {inputs.kind} where a sequence is due",
            found=inputs,
            expected="a sequence; for grids an encoder of type vit or patches, for tables "
            "ft_transformer, for vectors mlp",
            field=("input",),
        )
    if inputs.dtype == "float" and inputs.axes != ("time", "embed"):
        raise WiringError(
            "a signal of single numbers where a sequence of features is due",
            found=inputs,
            expected="frames: an encoder of type patches or conv1d",
            field=("input",),
        )
    if inputs.dtype != "float" and inputs.classes is None:
        raise WiringError(
            "codes of an unknown number of classes",
            found=inputs,
            expected="a modality that declares its vocabulary or classes",
            field=("input",),
        )
    if width is None and inputs.dtype != "float":
        raise WiringError(
            "codes have no width of their own",
            found=inputs,
            expected="a width to embed them in",
            field=("width",),
        )
    entered = inputs.with_(
        sizes=(("time", inputs.length), ("embed", width or inputs.width)),
        dtype="float",
        spans=spans_of(inputs),
        classes=None,
        names=(),
    )
    return with_readouts(entered, readout)


class Tokens(nnx.Module):
    """Root of what turns an input into tokens: adds positions, then puts readout tokens before
    all, then drops out. Subclasses give `__call__`.

    Args:
      length: how many tokens there are before readout tokens.
      width: size of the tokens.
      positions: anything but `auto`.
      readout: how many readout tokens.
    """

    def __init__(
        self,
        length: int,
        width: int,
        *,
        positions: PositionsName,
        readout: int,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.width, self.dropout = width, dropout
        self.added: PositionsName = positions
        learned = positions in ("learned", "renew")
        self.positions = LearnedPositions(length, width, rngs=rngs) if learned else None
        self.readout = Readouts(readout, width, rngs=rngs) if readout else None

    def finish(self, stream: Stream, *, context: Context) -> Stream:
        """Positions, readout tokens and dropout, for tokens that are embedded already."""
        values = stream.values
        if self.added == "renew":
            stream = stream.with_(position=jnp.arange(stream.length, dtype=jnp.int32))
        if self.positions is not None:
            values = self.positions(values)
        elif self.added == "sinusoidal":
            values = values + sinusoidal(stream.positions(), self.width, dtype=values.dtype)
        stream = stream.with_(values=values)
        if self.readout is not None:
            stream = self.readout(stream)
        dropped = dropout(stream.values, self.dropout, context=context, purpose="embed.dropout")
        return stream.with_(values=dropped)


class Entry(Tokens):
    """Codes are embedded; features of another width are projected, those of the same width enter
    as they are.

    Args:
      inputs: what comes in; the rest as `Tokens`.
    """

    def __init__(self, inputs: Signature, width: int, *, rngs: nnx.Rngs, **settings: Any):
        super().__init__(inputs.length, width, rngs=rngs, **settings)
        self.spans = spans_of(inputs)
        codes = inputs.dtype != "float"
        self.embed = TokenEmbed(inputs.classes or 1, width, rngs=rngs) if codes else None
        self.proj = (
            Linear(inputs.width, width, axes=("features", "embed"), rngs=rngs)
            if not codes and inputs.width != width
            else None
        )

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean().with_(spans=self.spans)
        values = stream.values
        if self.embed is not None:
            values = self.embed(values, dtype=context.dtype)
        elif self.proj is not None:
            values = self.proj(values)
        return self.finish(stream.with_(values=values), context=context)

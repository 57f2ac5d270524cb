"""The contract between stacks and the operators that edit them.

A stack is run layer by layer. Before a layer, every operator acting there is asked for an `Edit`:
what it wants of that layer, by hooks. After the layer, each operator is shown what came out.

    layer k:   operator.enter(streams, reads, state) -> edits, state
               layer(stream, merged edit)            -> LayerOutput(stream, extras)
               operator.leave(outputs, reads, state) -> streams, state

At the place `@input` there is no layer: `leave` alone is called, with the embedded streams.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit.context import Context
from fusekit.stream import Stream

Sublayer = Literal["attention", "mlp", "norm"]

MaskRule = Callable[[Stream, Stream], Bool[Array, "*b q k"]]
"""(queries, keys) -> who may read whom, from labels, items, segments and positions alone."""


class LowRank(NamedTuple):
    """A weight delta `x @ a @ b * scale` beside a named projection. `a [d, r]`, `b [r, out]`, or
    with a leading batch axis for deltas per sample."""

    a: Float[Array, "*b d r"]
    b: Float[Array, "*b r o"]
    scale: float = 1.0


class NormDelta(NamedTuple):
    """Added to a norm's scale and bias: `[d]`, or `[b, d]` per sample."""

    scale: Float[Array, "*b d"]
    bias: Float[Array, "*b d"]


class KeyValue(NamedTuple):
    """Keys and values that are already projected: `[b, n, heads, head_dim]`."""

    key: Float[Array, "b n h k"]
    value: Float[Array, "b n h k"]
    tokens: Stream


class Branch(NamedTuple):
    """Computes something from the normalised input of a sublayer (`Stream -> Stream`), for the
    tokens of these labels (`None`: all)."""

    apply: Callable[[Stream], Stream]
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Edit:
    """What one operator wants of one layer. Every field is a hook; the default wants nothing.

    Args:
      stream: the stream to enter the layer in place of the running one.
      tokens: extra tokens processed with the stream's own (after them); they come back as
        `LayerOutput.extras`.
      keys_values: extra tokens that attention reads only: a `Stream`, which the layer normalises
        and projects with its own weights, or a `KeyValue`.
      mask: who may attend to whom; rules of several operators intersect.
      norm: deltas of norms by sublayer, `attention` or `mlp`; deltas add.
      replace: a sublayer's computation for tokens of chosen labels; exclusive.
      skip: sublayers that tokens of chosen labels do not take; `None` stands for all tokens.
      residual: branches added beside a sublayer.
      then: branches added to the running stream after a sublayer, one after another in the order
        of the operators; each sees the stream with those before it, not normalised.
      weights: low-rank deltas of projections by name: `attention.query`, `attention.key`,
        `attention.value`, `attention.out`, `mlp.up`, `mlp.down`; deltas add.
    """

    stream: Stream | None = None
    tokens: Stream | None = None
    keys_values: Stream | KeyValue | None = None
    mask: MaskRule | None = None
    norm: Mapping[str, NormDelta] = field(default_factory=dict)
    replace: Mapping[str, Branch] = field(default_factory=dict)
    skip: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    residual: Mapping[str, Branch] = field(default_factory=dict)
    then: Mapping[str, Branch] = field(default_factory=dict)
    weights: Mapping[str, LowRank] = field(default_factory=dict)

    def hooks(self) -> frozenset[str]:
        """The hooks that this edit uses."""
        return frozenset(name for name in HOOKS if getattr(self, name) not in (None, {}))


HOOKS = (
    "tokens",
    "keys_values",
    "mask",
    "norm",
    "replace",
    "skip",
    "residual",
    "then",
    "weights",
)


class Edits(NamedTuple):
    """All edits of one layer, in the order of the operators in the file, and who made them."""

    all: tuple[Edit, ...] = ()
    names: tuple[str, ...] = ()

    def bringers(self) -> tuple[str, ...]:
        """The names of the operators that bring tokens; their numbers where they have none."""
        names = self.names or tuple(map(str, range(len(self.all))))
        return tuple(
            name for name, edit in zip(names, self.all, strict=True) if edit.tokens is not None
        )

    def of(self, hook: str) -> list[Any]:
        """What the operators put on one hook, in order; for mappings, non-empty ones."""
        return [getattr(e, hook) for e in self.all if getattr(e, hook) not in (None, {})]


class LayerOutput(NamedTuple):
    """What a layer gives: its stream, and one entry an edit: the tokens it brought, or None."""

    stream: Stream
    extras: tuple[Stream | None, ...] = ()


@runtime_checkable
class Replaceable(Protocol):
    """A layer that can do without the weights of sublayers that operators always replace."""

    def drop(self, sublayers: frozenset[str]) -> None:
        """Removes what only these sublayers hold."""


Reads = Mapping[str, Stream]


class Operator(nnx.Module):
    """Base of operator modules. The defaults do nothing, so that each defines what it needs.

    `state` is any pytree of arrays that passes from place to place (bottleneck tokens).
    """

    def begin(self, streams: tuple[Stream, ...], reads: Reads, *, context: Context) -> Any:
        """The state before the first place."""
        return ()

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        """One edit a stream, before its layer, and the state that `leave` is shown after it, which
        may hold what the layer's branches note down. `layers` are the layers about to run."""
        return tuple(Edit() for _ in streams), state

    def leave(
        self, outputs: tuple[LayerOutput, ...], reads: Reads, state: Any, *, context: Context
    ) -> tuple[tuple[Stream, ...], Any]:
        """The streams after the layer, and the state for the next place. Here an output's
        `extras` holds this operator's own entry only."""
        return tuple(output.stream for output in outputs), state

    def ports(self, state: Any) -> dict[str, Stream]:
        """Other outputs, from the state that `leave` gave at a place."""
        return {}

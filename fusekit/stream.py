"""What flows along an edge: `Signature` in the graph (no arrays), `Stream` in the model.

A stream is a batch of samples of one kind:

* scalar: `values [b]` (a class label, a number);
* vector: `values [b, embed]`;
* sequence: `values [b, time, embed]`, or integer `values [b, time]` (tokens);
* table: `values [b, field]` in float32, codes in categorical fields; `mask` marks fields known;
* grid: `values [b, height, width, channel]`, `[b, time, height, width, channel]` (raw or feature
  maps); sizes stay known, so that dense heads can undo flattening.

`mask [b, n]` is false where the first axis is padding; `presence [b]` is false where the sample
lacks the modality. `None` means all true, statically: no arithmetic is spent on it.
Contents that are padded or absent are replaced by zeros before any arithmetic (`Stream.clean`).
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Dtype = Literal["float", "int", "bool"]
Kind = Literal["scalar", "vector", "sequence", "table", "grid"]


def label_id(label: str) -> int:
    """The integer that stands for a label in `Stream.label`: a hash, so no table is needed."""
    return zlib.crc32(label.encode()) & 0x7FFFFFFF


@dataclass(frozen=True)
class Span:
    """A run of consecutive tokens of one origin.

    Args:
      label: the modality, or a name given by a tag.
      size: how many tokens.
      items: how many items of equal size the run holds (the images of a document).
      readout: whether these are learned readout tokens and not data.
    """

    label: str
    size: int
    items: int = 1
    readout: bool = False


@dataclass(frozen=True)
class Signature:
    """What is known of a stream before there is data: sizes by axis name, without the batch.

    Args:
      sizes: (axis, size) pairs after the batch axis; a sequence's are `time`, `embed`.
      dtype: `float` follows the compute dtype.
      spans: for sequences, the runs of tokens in order; their sizes add up to `time`.
      padded: a `mask` travels with the values.
      optional: a `presence` travels with the values.
      classes: for integers, how many different values there are.
      grid: for sequences that were flattened from a grid, the sizes of that grid.
      names: names of the classes or fields, where known.
      cardinalities: for tables, the categories of each field; 0 for a number.
      projections: of a stream that an operator edits, what the layer there projects, by name as
        (in, out); see `StackSpec.projections`. It is no part of what is compared.
    """

    sizes: tuple[tuple[str, int], ...]
    dtype: Dtype = "float"
    spans: tuple[Span, ...] = ()
    padded: bool = False
    optional: bool = False
    classes: int | None = None
    grid: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    cardinalities: tuple[int, ...] = ()
    projections: tuple[tuple[str, tuple[int, int]], ...] = field(
        default=(), compare=False, repr=False
    )

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(axis for axis, _ in self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes without the batch axis."""
        return tuple(size for _, size in self.sizes)

    def size(self, axis: str) -> int:
        return dict(self.sizes)[axis]

    @property
    def kind(self) -> Kind:
        match self.axes:
            case ():
                return "scalar"
            case ("embed",):
                return "vector"
            case ("time",) | ("time", "embed"):
                return "sequence"
            case ("field",):
                return "table"
            case _:
                return "grid"

    @property
    def width(self) -> int:
        """Size of the last axis: the feature width."""
        return self.sizes[-1][1]

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.size("time")

    def with_(self, **changes: object) -> "Signature":
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def __str__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in self.sizes)
        flags = [
            name
            for name, on in [
                (f"{self.classes} classes", self.classes),
                ("padded", self.padded),
                ("optional", self.optional),
            ]
            if on
        ]
        return f"{self.kind}({sizes or 'one number'}{''.join(', ' + f for f in flags)})"


def vector(width: int, *, optional: bool = False) -> Signature:
    return Signature((("embed", width),), optional=optional)


def sequence(
    length: int,
    width: int,
    *,
    label: str = "",
    spans: tuple[Span, ...] = (),
    padded: bool = False,
    optional: bool = False,
    grid: tuple[tuple[str, int], ...] = (),
) -> Signature:
    return Signature(
        (("time", length), ("embed", width)),
        spans=spans or (Span(label, length),),
        padded=padded,
        optional=optional,
        grid=grid,
    )


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "mask", "presence", "label", "item", "segment", "position"],
    meta_fields=["spans", "grid"],
)
@dataclass(frozen=True)
class Stream:
    """A batch of samples flowing along an edge. See the module's docstring for shapes.

    `label item segment position` (each `[time]` or `[b, time]`, integers) describe tokens; `None`
    stands for what `spans` says: the span's label, items of equal size, segment 0, positions
    counting from 0 in each span. Use `labels()`, `items()`, `segments()`, `positions()`.
    """

    values: Array
    mask: Bool[Array, "b n"] | None = None
    presence: Bool[Array, "b"] | None = None
    label: Int[Array, "*b n"] | None = None
    item: Int[Array, "*b n"] | None = None
    segment: Int[Array, "*b n"] | None = None
    position: Int[Array, "*b n"] | None = None
    spans: tuple[Span, ...] = ()
    grid: tuple[tuple[str, int], ...] = ()

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    @property
    def length(self) -> int:
        return self.values.shape[1]

    @property
    def width(self) -> int:
        return self.values.shape[-1]

    def valid(self) -> Bool[Array, "b n"] | None:
        """Positions to read: not padded, and the sample present. `None`: all."""
        if self.presence is None:
            return self.mask
        if self.mask is None:
            return jnp.broadcast_to(self.presence[:, None], self.values.shape[:2])
        return self.mask & self.presence[:, None]

    def clean(self) -> "Stream":
        """The same stream with zeros for what is padded or absent."""
        valid = self.presence if self.values.ndim == 1 or self.mask is None else self.valid()
        if valid is None:
            return self
        full = valid.reshape(valid.shape + (1,) * (self.values.ndim - valid.ndim))
        return self.with_(values=jnp.where(full, self.values, jnp.zeros((), self.values.dtype)))

    def with_(self, **changes: object) -> "Stream":
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def labels(self) -> Int[Array, "*b n"]:
        if self.label is not None:
            return self.label
        return jnp.asarray([label_id(s.label) for s in self.spans for _ in range(s.size)], "int32")

    def items(self) -> Int[Array, "*b n"]:
        if self.item is not None:
            return self.item
        ids = [i * s.items // s.size for s in self.spans for i in range(s.size)]
        return jnp.asarray(ids, "int32")

    def segments(self) -> Int[Array, "*b n"]:
        if self.segment is not None:
            return self.segment
        return jnp.zeros((self.length,), "int32")

    def positions(self) -> Int[Array, "*b n"]:
        if self.position is not None:
            return self.position
        return jnp.asarray([i for s in self.spans for i in range(s.size)], "int32")

    def span(self, label: str) -> "Stream":
        """The tokens of one label (data tokens, not readouts), which lie side by side."""
        return self.cut(*span_bounds(self.spans, label))

    def cut(self, start: int, stop: int) -> "Stream":
        """Tokens start to stop; keeps mask, presence and token descriptions."""

        def part(array: Array | None, axis: int) -> Array | None:
            return array if array is None else jax.lax.slice_in_dim(array, start, stop, axis=axis)

        spans, at = [], 0
        for span in self.spans:
            low, high = max(start, at), min(stop, at + span.size)
            if low < high:
                whole = high - low == span.size
                spans.append(replace(span, size=high - low, items=span.items if whole else 1))
            at += span.size
        tokens = {
            name: part(getattr(self, name), -1) for name in ("label", "item", "segment", "position")
        }
        return self.with_(
            values=jax.lax.slice_in_dim(self.values, start, stop, axis=1),
            mask=part(self.mask, 1),
            spans=tuple(spans),
            grid=(),
            **tokens,
        )


def span_bounds(spans: Sequence[Span], label: str) -> tuple[int, int]:
    """Start and stop of the data tokens labelled `label`. Raises `KeyError` if there are none."""
    at, found = 0, []
    for span in spans:
        if span.label == label and not span.readout:
            found.append((at, at + span.size))
        at += span.size
    if not found:
        raise KeyError(label)
    if any(a[1] != b[0] for a, b in pairwise(found)):
        raise KeyError(label)
    return found[0][0], found[-1][1]


def any_present(streams: Iterable[Stream]) -> Bool[Array, "b"] | None:
    """Samples that have at least one of the streams. `None`: all."""
    presences = [stream.presence for stream in streams]
    if any(p is None for p in presences):
        return None
    return jnp.any(jnp.stack([p for p in presences if p is not None]), axis=0)


def all_present(streams: Iterable[Stream]) -> Bool[Array, "b"] | None:
    """Samples that have all the streams. `None`: all."""
    presences = [stream.presence for stream in streams if stream.presence is not None]
    return jnp.all(jnp.stack(presences), axis=0) if presences else None


def presence_matrix(streams: Sequence[Stream]) -> Bool[Array, "b m"] | None:
    """Presence of each stream, side by side. `None`: all streams always present."""
    if all(stream.presence is None for stream in streams):
        return None
    ones = jnp.ones((streams[0].batch,), bool)
    return jnp.stack([ones if s.presence is None else s.presence for s in streams], axis=1)


def concatenate(streams: Sequence[Stream]) -> Stream:
    """Joins sequences along time. An absent stream's tokens become padding; a sample is present
    if any of its streams is."""
    masks: list[Array] | None = None
    if any(s.mask is not None or s.presence is not None for s in streams):
        masks = []
        for s in streams:
            valid = s.valid()
            masks.append(jnp.ones((s.batch, s.length), bool) if valid is None else valid)

    def joined(name: str, method: str) -> Array | None:
        if all(getattr(s, name) is None for s in streams):
            return None
        parts = [getattr(s, method)() for s in streams]
        if any(p.ndim == 2 for p in parts):
            parts = [
                jnp.broadcast_to(p, (s.batch, s.length))
                for p, s in zip(parts, streams, strict=True)
            ]
        return jnp.concatenate(parts, axis=-1)

    return Stream(
        values=jnp.concatenate([s.values for s in streams], axis=1),
        mask=None if masks is None else jnp.concatenate(masks, axis=1),
        presence=any_present(streams),
        label=joined("label", "labels"),
        item=joined("item", "items"),
        segment=joined("segment", "segments"),
        position=joined("position", "positions"),
        spans=tuple(span for s in streams for span in s.spans),
    )


def concatenate_signatures(signatures: Sequence[Signature]) -> Signature:
    """What `concatenate` gives. The caller has checked that kinds and widths agree."""
    return Signature(
        (("time", sum(s.length for s in signatures)), *signatures[0].sizes[1:]),
        dtype=signatures[0].dtype,
        spans=tuple(span for s in signatures for span in s.spans),
        padded=any(s.padded or s.optional for s in signatures),
        optional=all(s.optional for s in signatures),
    )

"""Choosing tokens by label: statically, as slices, where the spans say it all; else by a select."""

from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fusekit.layered import Branch
from fusekit.stream import Stream, concatenate, label_id
from fusekit_modules.layers.edits import Labels

Chosen = np.ndarray
"""`[n]` booleans, known when the program is traced."""

Own = Callable[[Chosen | None], Array]
"""A sublayer's own result for the chosen tokens, in order (`None`: all)."""


def runs(chosen: Chosen) -> list[tuple[int, int]]:
    """Starts and stops of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def take(x: Array, chosen: Chosen | None, *, axis: int = 1) -> Array:
    """The chosen tokens of an array, as slices."""
    if chosen is None or chosen.all():
        return x
    parts = [jax.lax.slice_in_dim(x, a, b, axis=axis) for a, b in runs(chosen)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)


def take_stream(stream: Stream, chosen: Chosen | None) -> Stream:
    """The chosen tokens as a stream; a stream of all tokens is left as it is."""
    if chosen is None or chosen.all():
        return stream
    parts = [stream.cut(a, b) for a, b in runs(chosen)]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def chosen_by_spans(stream: Stream, labels: Labels) -> Chosen:
    """The tokens of some labels, readout tokens included, by spans."""
    return np.concatenate(
        [np.full(s.size, labels is None or s.label in labels) for s in stream.spans]
    )


def chosen_by_label(stream: Stream, labels: Sequence[str]) -> Bool[Array, "*b n"]:
    """The tokens of some labels, by the stream's own label array."""
    found = stream.labels()
    none = jnp.zeros(found.shape, bool)
    return reduce(jnp.logical_or, [found == label_id(label) for label in labels], none)


def route(
    stream: Stream,
    own: Own,
    *,
    skip: Labels = (),
    replace: Branch | None = None,
    residual: Sequence[Branch] = (),
    skipped: Array | None = None,
) -> Float[Array, "b n d"]:
    """A sublayer's result for every token.

    Tokens of `skip` get `skipped` (default zeros), those that `replace` claims get its branch,
    the others `own`; skip goes before replace. The results of `residual` branches are added to
    those of the tokens that they name, skipped ones too. A branch is shown its own tokens only:
    statically the others are cut out, dynamically they are masked.
    """
    wanted = [skip, *([replace.labels] if replace else []), *[b.labels for b in residual]]
    if stream.label is None or all(labels is None or not labels for labels in wanted):
        return _route_static(stream, own, skip, replace, residual, skipped)
    return _route_dynamic(stream, own, skip, replace, residual, skipped)


def alone(stream: Stream, branch: Branch) -> Float[Array, "b n d"]:
    """A branch's result for the tokens that it names, zeros for the others."""
    return route(stream, lambda _: jnp.zeros_like(stream.values), residual=[branch])


def _everything(stream: Stream, labels: Labels) -> Chosen:
    """Choice where labels are `None` (all) or empty (none), or known by spans."""
    if labels is None or not labels:
        return np.full(stream.length, labels is None)
    return chosen_by_spans(stream, labels)


def _route_static(
    stream: Stream,
    own: Own,
    skip: Labels,
    replace: Branch | None,
    residual: Sequence[Branch],
    skipped: Array | None,
) -> Array:
    out = _everything(stream, skip)
    taken = np.zeros_like(out) if replace is None else _everything(stream, replace.labels)
    taken = taken & ~out
    kept = ~out & ~taken
    pieces: list[tuple[Chosen, Array]] = []
    if kept.any():
        pieces.append((kept, own(None if kept.all() else kept)))
    if replace is not None and taken.any():
        pieces.append((taken, replace.apply(take_stream(stream, taken)).values))
    if out.any():
        zeros = jnp.zeros_like(stream.values) if skipped is None else skipped
        pieces.append((out, take(zeros, out)))
    y = put(pieces, stream.length)
    for branch in residual:
        mine = _everything(stream, branch.labels)
        if mine.all():
            y = y + branch.apply(stream).values.astype(y.dtype)
        elif mine.any():
            extra = branch.apply(take_stream(stream, mine)).values.astype(y.dtype)
            rest = jnp.zeros((y.shape[0], int((~mine).sum()), y.shape[2]), y.dtype)
            y = y + put([(mine, extra), (~mine, rest)], stream.length)
    return y


def put(pieces: Sequence[tuple[Chosen, Array]], length: int) -> Array:
    """Puts pieces of tokens back into their order; each comes with the places it came from."""
    if len(pieces) == 1:
        return pieces[0][1]
    placed = [
        (a, array, int(chosen[:a].sum()), b - a)
        for chosen, array in pieces
        for a, b in runs(chosen)
    ]
    placed.sort(key=lambda item: item[0])
    kind = pieces[0][1].dtype
    parts = [
        jax.lax.slice_in_dim(array, at, at + size, axis=1).astype(kind)
        for _, array, at, size in placed
    ]
    return jnp.concatenate(parts, axis=1)


def _route_dynamic(
    stream: Stream,
    own: Own,
    skip: Labels,
    replace: Branch | None,
    residual: Sequence[Branch],
    skipped: Array | None,
) -> Array:
    def of(labels: Labels) -> Array:
        chosen = jnp.asarray(True) if labels is None else chosen_by_label(stream, labels)
        return jnp.broadcast_to(chosen, stream.values.shape[:2])

    def shown(branch: Branch) -> Stream:
        if branch.labels is None:
            return stream
        mine = of(branch.labels)
        return stream.with_(mask=mine if stream.mask is None else stream.mask & mine).clean()

    y = own(None)
    if replace is not None:
        there = replace.apply(shown(replace)).values.astype(y.dtype)
        y = jnp.where(of(replace.labels)[..., None], there, y)
    if skip is None or skip:
        zeros = jnp.zeros_like(y) if skipped is None else skipped
        y = jnp.where(of(skip)[..., None], zeros, y)
    for branch in residual:
        extra = branch.apply(shown(branch)).values.astype(y.dtype)
        y = y + jnp.where(of(branch.labels)[..., None], extra, jnp.zeros((), y.dtype))
    return y

"""Ports: how a reference reads a part of what a node gives, the same for signatures and streams.

First a component's own port; then, of a sequence, the reductions `.mean .first .last .readout` and
every span by its label; of a sequence of codes or marks, spans alone; of a grid, `.mean`.

A span is present where any of its tokens is valid, for a stream that joins several may lack some
of them: their tokens are padding. So is a single readout token that came with one of them. Of a
padded sequence both are therefore optional, which holds for what is read of them too.
"""

import jax.numpy as jnp
from jaxtyping import Array

from fusekit.errors import WiringError, nearest
from fusekit.stream import Signature, Span, Stream, span_bounds, vector

REDUCTIONS = ("mean", "first", "last", "readout")

Given = Signature | dict[str, Signature]


def select_signature(given: Given, ports: tuple[str, ...], reference: str) -> Signature:
    """The signature of `reference`, whose node gives `given`. Raises `WiringError`."""
    if isinstance(given, dict):
        if ports and ports[0] in given:
            return select_signature(given[ports[0]], ports[1:], reference)
        return select_signature(given["out"], ports, reference)
    for port in ports:
        given = _reduced(given, port, reference)
    return given


def select_stream(given: "Stream | dict[str, Stream]", ports: tuple[str, ...]) -> Stream:
    """The stream that the ports read; `select_signature` has checked that they exist."""
    if isinstance(given, dict):
        if ports and ports[0] in given:
            return select_stream(given[ports[0]], ports[1:])
        return select_stream(given["out"], ports)
    for port in ports:
        given = _reduce(given, port)
    return given


def _labels(signature: Signature) -> list[str]:
    return [s.label for s in signature.spans if s.label and not s.readout]


def _reductions(signature: Signature) -> list[str]:
    """The reductions that a sequence has: `readout` if it has learned readout tokens."""
    readout = any(span.readout for span in signature.spans)
    return [port for port in REDUCTIONS if readout or port != "readout"]


def _reduced(given: Signature, port: str, reference: str) -> Signature:
    if given.kind == "grid" and port == "mean":
        return vector(given.width, optional=given.optional)
    single = len(given.axes) == 1
    if given.kind != "sequence" or (single and port not in _labels(given)):
        names = _labels(given) if single else []
        raise WiringError(
            f"{reference} has no port {port}",
            found=str(given),
            expected="one of " + ", ".join(names) if len(names) > 1 else "a sequence",
            nearest=nearest(port, names),
        )
    if port in ("mean", "first", "last"):
        return vector(given.width, optional=given.optional)
    if port == "readout":
        tokens = sum(s.size for s in given.spans if s.readout)
        if tokens == 0:
            raise WiringError(
                f"{reference} reads learned readout tokens, of which there are none",
                expected="readout: 1 on the encoder, or .mean, .first or .last",
            )
        if tokens == 1:
            return vector(given.width, optional=given.optional or _inner(given.spans, given.padded))
        spans = tuple(s for s in given.spans if s.readout)
        return given.with_(sizes=(("time", tokens), given.sizes[1]), spans=spans, grid=())
    try:
        start, stop = span_bounds(given.spans, port)
    except KeyError:
        known = [*_reductions(given), *_labels(given)]
        raise WiringError(
            f"{reference} has no port {port}",
            expected="one of " + ", ".join(known),
            nearest=nearest(port, known),
        ) from None
    spans = tuple(s for s in given.spans if s.label == port and not s.readout)
    sizes = (("time", stop - start), *given.sizes[1:])
    return given.with_(sizes=sizes, spans=spans, grid=(), optional=given.optional or given.padded)


def _reduce(given: Stream, port: str) -> Stream:
    if given.values.ndim > 3:
        return Stream(_mean_of_grid(given), presence=given.presence)
    if port == "readout":
        indices = _token_indices(given.spans, readout=True)
        if len(indices) > 1:
            return _pick(given, indices)
        one = given.cut(indices[0], indices[0] + 1)
        if _inner(given.spans, given.mask is not None):
            one = _where_valid(one)
        return Stream(one.values[:, 0], presence=one.presence).clean()
    if port not in REDUCTIONS:
        return _where_valid(given.span(port))
    if any(not span.readout for span in given.spans):
        given = _pick(given, _token_indices(given.spans, readout=False))
    return Stream(_POOL[port](given.values, given.mask), presence=given.presence)


def _inner(spans: tuple[Span, ...], padded: bool) -> bool:
    """Whether the only readout token may be padding. A stack's own never is: it stands before all
    tokens, under the label that they share, or under `readout` where they differ."""
    labels = {span.label for span in spans if not span.readout}
    own = labels.pop() if len(labels) == 1 else "readout"
    return padded and not (spans[0].readout and spans[0].label == own)


def _where_valid(given: Stream) -> Stream:
    """Present only where some token is valid."""
    if given.mask is None:
        return given
    some = jnp.any(given.mask, axis=1)
    return given.with_(presence=some if given.presence is None else some & given.presence)


def _mean_of_grid(given: Stream) -> Array:
    axes = tuple(range(1, given.values.ndim - 1))
    if given.mask is None:
        return jnp.mean(given.values, axis=axes)
    return pool_mean(jnp.mean(given.values, axis=axes[1:]), given.mask)


def _token_indices(spans: tuple[Span, ...], *, readout: bool) -> list[int]:
    flags = [span.readout for span in spans for _ in range(span.size)]
    return [index for index, flag in enumerate(flags) if flag == readout]


def _pick(given: Stream, indices: list[int]) -> Stream:
    """Some tokens, which may be several runs."""
    if indices == list(range(given.length)):
        return given
    from fusekit.stream import concatenate

    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    parts = [given.cut(start, stop) for start, stop in runs]
    if len(parts) == 1:
        return parts[0]
    bare = concatenate([part.with_(presence=None) for part in parts])
    return bare.with_(presence=given.presence)


def pool_mean(values: Array, mask: Array | None) -> Array:
    """Mean over valid positions; zero where there is none. `[b, t, d]`, `[b, t]` -> `[b, d]`."""
    if mask is None:
        return jnp.mean(values, axis=1)
    weight = mask.astype(values.dtype)[..., None]
    return jnp.sum(values * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)


def pool_first(values: Array, mask: Array | None) -> Array:
    """The first valid position."""
    if mask is None:
        return values[:, 0]
    return _take(values, jnp.argmax(mask, axis=1), mask)


def pool_last(values: Array, mask: Array | None) -> Array:
    """The last valid position."""
    if mask is None:
        return values[:, -1]
    return _take(values, mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1), mask)


def _take(values: Array, index: Array, mask: Array) -> Array:
    taken = jnp.take_along_axis(values, index[:, None, None], axis=1)[:, 0]
    return jnp.where(jnp.any(mask, axis=1)[:, None], taken, 0)


_POOL = {"mean": pool_mean, "first": pool_first, "last": pool_last}

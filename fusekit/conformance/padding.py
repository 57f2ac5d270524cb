"""What the law of padding compares: one case, and the same with more padding at the end."""

from typing import Any

import jax
import numpy as np

from fusekit.component import LossValue
from fusekit.stream import Signature, Stream


def longer(signature: Signature, by: int) -> Signature | None:
    """A padded sequence's signature with more positions in its last span; `None` for others."""
    if not signature.padded or signature.kind != "sequence":
        return None
    *spans, last = signature.spans
    sizes = tuple((axis, size + by * (axis == "time")) for axis, size in signature.sizes)
    return signature.with_(sizes=sizes, spans=(*spans, type(last)(last.label, last.size + by)))


def lengthened(stream: Stream, signature: Signature) -> Stream:
    """A stream padded with garbage up to the length of a signature."""
    if signature.kind != "sequence" or stream.mask is None:
        return stream
    more = signature.length - np.shape(stream.values)[1]
    rest = ((0, 0),) * (np.ndim(stream.values) - 2)
    values = np.pad(np.asarray(stream.values), ((0, 0), (0, more), *rest), constant_values=1)
    mask = np.pad(np.asarray(stream.mask), ((0, 0), (0, more)))
    return Stream(values, mask, stream.presence, spans=signature.spans, grid=signature.grid)  # pyright: ignore


def transplanted(short: Any, long: Any) -> Any:
    """The parameters of the longer case with those of the shorter in their first places (of
    learned positions the later ones are new); `None` if the two have other parameters."""
    if jax.tree.structure(short) != jax.tree.structure(long):
        return None
    pairs = zip(jax.tree.leaves(short), jax.tree.leaves(long), strict=True)
    leaves = []
    for a, b in pairs:
        if a.ndim != b.ndim or any(m > n for m, n in zip(a.shape, b.shape, strict=True)):
            return None
        leaves.append(b.at[tuple(slice(0, n) for n in a.shape)].set(a))
    return jax.tree.unflatten(jax.tree.structure(long), leaves)


def parts(out: Any) -> Any:
    """What must not depend on padding: values, of sequences those at true positions, in order."""
    if isinstance(out, LossValue):
        return out
    if isinstance(out, dict):
        return {name: parts(stream) for name, stream in out.items()}
    values = np.asarray(out.values)
    return values if out.mask is None else values[np.asarray(out.mask)]

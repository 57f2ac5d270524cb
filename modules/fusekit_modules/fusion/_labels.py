"""What operators share that act on sublayers, for tokens of some labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

from fusekit.stream import Stream, label_id

Sublayer = Literal["attention", "feed_forward"]


def by_label(stream: Stream, functions: Mapping[str, Callable[[Array], Array]]) -> Array:
    """`[b, t, d]`: each token's function of its values, by label; zeros where it has none. Cut by
    spans, or by the labels of tokens where these vary."""
    values = stream.values
    if stream.label is not None:
        out = jnp.zeros_like(values)
        for label, function in functions.items():
            mine = (stream.label == label_id(label))[..., None]
            out = jnp.where(mine, function(values).astype(values.dtype), out)
        return out
    parts, at = [], 0
    for span in stream.spans:
        part = values[:, at : at + span.size]
        function = functions.get(span.label, jnp.zeros_like)
        parts.append(function(part).astype(values.dtype))
        at += span.size
    return jnp.concatenate(parts, axis=1)


def hook_names(sublayers: Sequence[Sublayer]) -> tuple[str, ...]:
    """What the hooks of a layer call these sublayers."""
    return tuple("mlp" if name == "feed_forward" else name for name in sublayers)

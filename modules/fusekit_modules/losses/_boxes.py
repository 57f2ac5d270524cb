"""Boxes as (centre x, centre y, width, height)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.errors import WiringError
from fusekit.stream import Signature
from fusekit_modules.layers.expect import expect_sequence

TINY = 1e-7


def expect_boxes(boxes: Signature, beside: Signature, name: str) -> None:
    """As many boxes as there are tokens beside. Raises `WiringError`."""
    expect_sequence(boxes, name, field=(name,))
    if boxes.width != 4 or boxes.length != beside.length:
        raise WiringError(
            f"{name!r} are not boxes of what they stand beside",
            found=boxes,
            expected=f"{beside.length} of width 4",
            field=(name,),
        )


def corners(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(left, top, right, bottom)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def giou(a: Float[Array, "*b 4"], b: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Generalised intersection over union (Rezatofighi et al. 2019, algorithm 1), from -1 to 1; of
    two boxes without area it is 0, and a negative size counts as 0."""
    a, b = (corners(jnp.concatenate([x[..., :2], jnp.maximum(x[..., 2:], 0)], -1)) for x in (a, b))
    overlap = _area(jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:]))
    hull = _area(jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - overlap
    return overlap / jnp.maximum(union, TINY) - (hull - union) / jnp.maximum(hull, TINY)


def _area(low: Float[Array, "*b 2"], high: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)

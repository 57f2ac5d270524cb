"""Inputs that lie side by side, position by position."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.component import Signatures
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, any_present
from fusekit_modules.layers.expect import expect_count, expect_sequence


def expect_aligned(inputs: Signatures, *, least: int = 2, grids: bool = False) -> Signature:
    """Sequences of one length, or with `grids` maps of one size; widths may differ. What comes out
    of them is as the first of them, padded where any is, present where one is. Raises
    `WiringError`."""
    expect_count(inputs, least=least)
    (role, first), *_ = inputs.items()
    for name, signature in inputs.items():
        if not (grids and signature.kind == "grid"):
            expect_sequence(signature, name)
        elif signature.dtype != "float" or len(signature.sizes) != 3:
            expected = "two axes and channels: an encoder such as conv"
            path = ("inputs", name)
            raise WiringError(
                f"{name!r} is no feature map", found=signature, expected=expected, field=path
            )
        if signature.sizes[:-1] != first.sizes[:-1]:
            raise WiringError(
                "the inputs differ in size",
                found=f"{role} {first}, {name} {signature}",
                expected="one number of positions along each axis",
                field=("inputs", name),
            )
    return first.with_(
        padded=any(signature.padded for signature in inputs.values()),
        optional=all(signature.optional for signature in inputs.values()),
    )


def read_aligned(
    streams: Mapping[str, Stream],
) -> tuple[list[Float[Array, "b t *n d"]], Bool[Array, "b t m"], Stream]:
    """The values, zero where padded or absent; where along the first axis each is valid; and the
    first stream with the mask and presence that the result is to have."""
    given = [stream.clean() for stream in streams.values()]
    each = []
    for stream in given:
        valid, shape = stream.valid(), stream.values.shape[:2]
        each.append(jnp.ones(shape, bool) if valid is None else valid)
    valid = jnp.stack(each, axis=2)
    padded = any(stream.mask is not None for stream in given)
    mask = jnp.any(valid, axis=2) if padded else None
    frame = given[0].with_(mask=mask, presence=any_present(given))
    return [stream.values for stream in given], valid, frame

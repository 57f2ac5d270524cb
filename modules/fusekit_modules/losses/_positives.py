"""Rows that are positives of each other: those of one key."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool

from fusekit.component import Signatures
from fusekit.errors import WiringError
from fusekit.stream import Stream


def check_positives(inputs: Signatures, role: str = "positives") -> None:
    """The role, if it is read, is a key by row. Raises `WiringError` otherwise."""
    if role in inputs and inputs[role].kind != "scalar":
        raise WiringError(
            f"{role} is no key",
            found=inputs[role],
            expected="a scalar, such as a label",
            field=(role,),
        )


def same_key(streams: Mapping[str, Stream], valid: Bool[Array, "b"]) -> Bool[Array, "b b"]:
    """Which rows are positives of which: each of itself, or with `positives` all of its key."""
    if "positives" not in streams:
        return jnp.eye(valid.shape[0], dtype=bool)
    key = streams["positives"].values
    return (key[:, None] == key[None]) & valid[:, None] & valid[None]

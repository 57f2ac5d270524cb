"""What the checks share: bit-for-bit equality, finiteness, and how a broken law is said."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class BrokenError(AssertionError):
    """A law that a component breaks."""


def same(one: Any, other: Any, what: str) -> None:
    """Bit-for-bit equality of two trees."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True):
            gap = np.nanmax(np.abs(np.asarray(a, "float64") - np.asarray(b, "float64")))
            raise BrokenError(f"{what} (largest difference {gap:.3g})")


def finite(tree: Any, what: str) -> None:
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            raise BrokenError(f"{what} is not finite")

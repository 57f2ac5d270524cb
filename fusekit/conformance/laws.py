"""What the checks share: bit-for-bit equality, finiteness, reach, and how a broken law is said."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOISE = 1e-8
"""A gradient this much smaller than the largest is rounding: nothing depends on the parameter."""


def quick(function: Callable[..., Any]) -> Any:
    """Jitted, with less work for the compiler where that is known how: compiling is what costs."""
    options: Any = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    return jax.jit(function, compiler_options=options if jax.default_backend() == "cpu" else None)


def dead(gradients: Mapping[str, Any], noise: float) -> set[str]:
    """The names whose gradient is at most `noise` times the largest, by norm."""
    norms = {name: float(np.linalg.norm(np.asarray(g))) for name, g in gradients.items()}
    return {name for name, norm in norms.items() if norm <= noise * max(norms.values())}


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


def zero(tree: Any, what: str) -> None:
    """Every leaf is zero."""
    for leaf in jax.tree.leaves(tree):
        if np.any(np.asarray(leaf)):
            size = np.abs(np.asarray(leaf)).max()
            raise BrokenError(f"a value or gradient {what} is not zero (but {size:.3g})")


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees, relative to the largest value of a leaf or 1."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        if a.shape != b.shape:
            return np.inf
        if a.size:
            worst = max(worst, float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(a)))))
    return worst

"""Grouped products for TPUs by megablox, a Pallas kernel that JAX brings (Gale et al. 2022).

Tiles of rows in which a group ends are visited once for each group in them, so that no group is
filled up. XLA's own `ragged_dot` does not compile there for many rows, and its gradient by weights
computes every group on every row.
"""

from importlib import import_module
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.reasons import other_chip, other_dtype
from fusekit_modules.ops.target import Target

megablox: Any = import_module("jax.experimental.pallas.ops.tpu.megablox.gmm")
"""The module; its package has a function of the same name."""

GENERATIONS = ("v5e", "v5p", "v6e")
"""For which it was compiled; it has not run on any."""
LANES, SUBLANES = 128, 16
ROWS, WIDE = 512, 1024
"""Of a tile at most: rows, and features that go in and come out in half precision; of float32 half
as many features. Two buffers of each operand and a float32 sum then fit the 16 MiB that a kernel
gets by default."""


def unsupported(target: Target, rows: Any, weights: Any) -> Reason:
    """Why it cannot."""
    return other_chip(target, GENERATIONS) or other_dtype(rows, weights)


def forward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    *,
    interpret: bool = False,
) -> Float[Array, "n h"]:
    """As `reference.forward`."""
    return _by_rows(rows, sizes, weights, interpret, turned=False)


def backward(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"],
    weights: Float[Array, "e d h"],
    grad: Float[Array, "n h"],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "n d"], Float[Array, "e d h"]]:
    """As `reference.backward`."""
    by_rows = _by_rows(grad, sizes, weights, interpret, turned=True)
    tiling = (_tile(rows), _cut(rows, rows.shape[1]), _cut(rows, grad.shape[1]))
    by_weights = megablox.tgmm(
        _filled(rows).T,
        _filled(grad),
        sizes.astype(jnp.int32),
        preferred_element_type=weights.dtype,
        tiling=tiling,
        interpret=interpret,
    )
    return by_rows, by_weights


def _by_rows(rows: Array, sizes: Array, weights: Array, interpret: bool, *, turned: bool) -> Array:
    """Rows times the weights of their group; `turned`, times these transposed."""
    width = weights.shape[1 if turned else 2]
    found = megablox.gmm(
        _filled(rows),
        weights,
        sizes.astype(jnp.int32),
        preferred_element_type=rows.dtype,
        tiling=(_tile(rows), _cut(rows, rows.shape[1]), _cut(rows, width)),
        transpose_rhs=turned,
        interpret=interpret,
    )
    # of no group: the kernel never writes them
    there = jnp.arange(len(rows)) < jnp.sum(sizes)
    return jnp.where(there[:, None], found[: len(rows)], jnp.zeros((), found.dtype))


def _filled(rows: Array) -> Array:
    """Rows up to whole tiles, with zeros."""
    return jnp.pad(rows, ((0, -len(rows) % _tile(rows)), (0, 0)))


def _tile(rows: Array) -> int:
    return min(ROWS, -(-len(rows) // SUBLANES) * SUBLANES)


def _cut(rows: Array, width: int) -> int:
    """Of features: a multiple of the lanes that divides the width, as near the most as there is;
    else about even parts, of which the last is smaller."""
    most = 2 * WIDE // rows.dtype.itemsize
    if width <= most:
        return width
    fitting = [size for size in range(most, most // 2 - 1, -LANES) if width % size == 0]
    parts = -(-width // most)
    return fitting[0] if fitting else -(-width // parts // LANES) * LANES

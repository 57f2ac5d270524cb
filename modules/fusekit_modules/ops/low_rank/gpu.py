"""The forward kernel for NVIDIA's GPUs, in Pallas by way of Triton: factors stay in registers.

A program goes through all ranks of one tile of the result. Needs no alignment: what is beyond the
arrays is masked.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.low_rank import floors
from fusekit_modules.ops.low_rank.form import Given
from fusekit_modules.ops.target import Target
from fusekit_modules.ops.triton import LACKING, plgpu

OLDEST = (8, 0)
"""Compute capability from which on tensor cores multiply bfloat16."""


@dataclass(frozen=True)
class Tiles:
    """Rows and columns of a tile of the result, features multiplied at a time, all powers of two of
    16 and more; and Triton's parameters."""

    rows: int = 128
    columns: int = 64
    depth: int = 64
    warps: int = 4
    stages: int = 3

    @property
    def params(self) -> Any:
        return plgpu.CompilerParams(num_warps=self.warps, num_stages=self.stages)


def unsupported(target: Target, given: Given) -> Reason:
    """Why the kernel cannot."""
    if target.platform != "gpu":
        return f"the target is a {target}"
    if plgpu is None:
        return LACKING
    if target.capability and target.capability < OLDEST:
        return f"{target} is older than {OLDEST[0]}.{OLDEST[1]}"
    dtype = given.vectors[0].dtype
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"{dtype} is not float32, bfloat16 or float16"
    return None


def forward(given: Given, *, target: Target, tiles: Tiles = Tiles()) -> Float[Array, "b out"]:
    """As `reference.forward`."""
    count, _, size, width = given.sizes
    return pl.pallas_call(
        partial(kernel, count, tiles, target.interpret),
        grid=(pl.cdiv(size, tiles.rows), pl.cdiv(width, tiles.columns)),
        out_shape=jax.ShapeDtypeStruct((size, width), given.vectors[0].dtype),
        compiler_params=tiles.params,
        cost_estimate=floors.forward(given).estimate(),
        interpret=target.interpret,
        name="low_rank_forward",
    )(given.mix, given.bias, *given.vectors, *jax.tree.leaves(given.factors))


def kernel(count: int, tiles: Tiles, interpret: bool, mix: Any, bias: Any, *refs: Any) -> None:
    """One tile, of all ranks."""
    vectors, factors, out = refs[:count], refs[count : 3 * count], refs[3 * count]
    at = _At(
        pl.program_id(0) * tiles.rows, pl.program_id(1) * tiles.columns, out.shape, tiles, interpret
    )

    def one(rank: Array, total: Array) -> Array:
        product: Any = mix[rank].astype(jnp.float32)
        for vector, offsets, weights in zip(vectors, factors[::2], factors[1::2], strict=True):
            product = product * (at.columns_of(offsets, rank) + at.product(vector, weights, rank))
        return total + product

    first = jnp.zeros((tiles.rows, tiles.columns), jnp.float32) + at.columns_of(bias)
    total = lax.fori_loop(0, mix.shape[0], one, first).astype(out.dtype)
    plgpu.store(out.at[at.rows, at.columns], total, mask=_both(at.in_rows, at.in_columns))


class _At:
    """Where a tile of the result is, and which of its rows and columns there are."""

    def __init__(self, row: Any, column: Any, shape: tuple[int, int], tiles: Tiles, interpret: Any):
        self.tiles, self.interpret = tiles, interpret
        self.rows, self.columns = pl.ds(row, tiles.rows), pl.ds(column, tiles.columns)
        self.in_rows = _within(row, tiles.rows, shape[0])
        self.in_columns = _within(column, tiles.columns, shape[1])

    def columns_of(self, ref: Any, *first: Any) -> Array:
        """Numbers by column `[1, columns]`."""
        return _load(ref.at[(*first, self.columns)], self.in_columns).astype(jnp.float32)[None]

    def product(self, vector: Any, weights: Any, rank: Array) -> Array:
        """Of the rows' vectors and the columns' weights of a rank."""
        size = self.tiles.depth

        def step(turn: Array, sums: Array) -> Array:
            depth, inside = pl.ds(turn * size, size), _within(turn * size, size, vector.shape[1])
            x = _load(vector.at[self.rows, depth], _both(self.in_rows, inside))
            w = _load(weights.at[rank, depth, self.columns], _both(inside, self.in_columns))
            return sums + _dot(x, w, self.interpret)

        zeros = jnp.zeros((self.tiles.rows, self.tiles.columns), jnp.float32)
        return lax.fori_loop(0, pl.cdiv(vector.shape[1], size), step, zeros)


def _within(start: Any, size: int, length: int) -> Array:
    return start + jnp.arange(size) < length


def _both(rows: Array, columns: Array) -> Array:
    return rows[:, None] & columns[None]


def _load(view: Any, mask: Array) -> Array:
    return plgpu.load(view, mask=mask, other=0)


def _dot(a: Array, b: Array, interpret: bool) -> Array:
    """Summed in float32, which itself is the sum of three products of TF32."""
    precision: Any = None
    if interpret:
        a, b, precision = a.astype(jnp.float32), b.astype(jnp.float32), lax.Precision.HIGHEST
    elif a.dtype == jnp.float32:
        precision = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

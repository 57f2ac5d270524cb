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


def forward(given: Given, *, target: Target, tiles: Tiles = Tiles()) -> Float[Array, "b out"]:  # noqa: B008
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
    at_rows = pl.program_id(0) * tiles.rows
    at_columns = pl.program_id(1) * tiles.columns
    rows, columns = pl.ds(at_rows, tiles.rows), pl.ds(at_columns, tiles.columns)
    in_rows = _within(at_rows, tiles.rows, out.shape[0])
    in_columns = _within(at_columns, tiles.columns, out.shape[1])

    def of_columns(ref: Any, *at: Any) -> Array:
        return _load(ref.at[(*at, columns)], in_columns).astype(jnp.float32)

    def one(rank: Array, total: Array) -> Array:
        product: Any = mix[rank].astype(jnp.float32)
        for vector, offsets, weights in zip(vectors, factors[::2], factors[1::2], strict=True):

            def step(turn: Array, sums: Array, vector: Any = vector, weights: Any = weights) -> Array:
                start = turn * tiles.depth
                depth = pl.ds(start, tiles.depth)
                inside = _within(start, tiles.depth, vector.shape[1])
                x = _load(vector.at[rows, depth], _both(in_rows, inside))
                w = _load(weights.at[rank, depth, columns], _both(inside, in_columns))
                return sums + _dot(x, w, interpret)

            zeros = jnp.zeros((tiles.rows, tiles.columns), jnp.float32)
            turns = pl.cdiv(vector.shape[1], tiles.depth)
            sums = lax.fori_loop(0, turns, step, zeros)
            product = product * (of_columns(offsets, rank)[None] + sums)
        return total + product

    first = jnp.zeros((tiles.rows, tiles.columns), jnp.float32) + of_columns(bias)[None]
    total = lax.fori_loop(0, mix.shape[0], one, first).astype(out.dtype)
    view, mask = out.at[rows, columns], _both(in_rows, in_columns)
    plgpu.store(view, total, mask=mask)


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

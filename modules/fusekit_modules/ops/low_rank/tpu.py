"""The forward kernel for TPUs, in Pallas by way of Mosaic: factors never leave the chip.

A program multiplies the factors of one rank for one tile of the result; ranks come last, and add up
in the chip's memory. Vectors of a block of rows stay there for all of them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.low_rank import floors
from fusekit_modules.ops.low_rank.form import Given
from fusekit_modules.ops.reasons import other_chip, other_dtype
from fusekit_modules.ops.target import Target

GENERATIONS = ("v5e", "v5p", "v6e")
"""For which it was compiled; it has not run on any."""
VMEM = 64 << 20
ROWS, COLUMNS, GROUP = 1024, 512, 256
"""Of a tile of the result, and how many rows of it are worked on at a time, so that one group's
products run beside the multiplication of the last one's factors."""


def unsupported(target: Target, given: Given) -> Reason:
    """Why the kernel cannot."""
    vector = given.vectors[0]
    if (reason := other_chip(target, GENERATIONS) or other_dtype(vector)) is not None:
        return reason
    width = sum(vector.shape[1] for vector in given.vectors)
    needed = 2 * width * (ROWS + COLUMNS) * vector.dtype.itemsize
    if needed > VMEM // 2:
        return f"vectors of {width} features in all do not fit into its memory"
    return None


def programs(given: Given) -> int:
    """How many programs the kernel has."""
    _, rank, size, width = given.sizes
    rows, columns = _tile(given)
    return pl.cdiv(size, rows) * pl.cdiv(width, columns) * rank


def forward(given: Given, *, target: Target) -> Float[Array, "b out"]:
    """As `reference.forward`."""
    count, rank, size, width = given.sizes
    (rows, columns), dtype = _tile(given), given.vectors[0].dtype

    def of_weights(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((None, array.shape[1], columns), lambda i, j, r: (r, 0, j))

    by_column = pl.BlockSpec((rank, columns), lambda i, j, r: (0, j))
    offsets = [factor.offsets.astype(jnp.float32) for factor in given.factors]
    weights = [factor.weights for factor in given.factors]
    return pl.pallas_call(
        partial(kernel, count, min(GROUP, rows)),
        grid=(pl.cdiv(size, rows), pl.cdiv(width, columns), rank),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((1, columns), lambda i, j, r: (0, j)),
            *(
                pl.BlockSpec((rows, vector.shape[1]), lambda i, j, r: (i, 0))
                for vector in given.vectors
            ),
            *[by_column] * count,
            *map(of_weights, weights),
        ],
        out_specs=pl.BlockSpec((rows, columns), lambda i, j, r: (i, j)),
        out_shape=jax.ShapeDtypeStruct((size, width), dtype),
        scratch_shapes=[pltpu.VMEM((rows, columns), jnp.float32)],
        interpret=target.interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM
        ),
        cost_estimate=floors.forward(given).estimate(),
        name="low_rank_forward",
    )(
        given.mix.astype(jnp.float32),
        given.bias.astype(jnp.float32)[None],
        *given.vectors,
        *offsets,
        *weights,
    )


def kernel(count: int, group: int, mix: Any, bias: Any, *refs: Any) -> None:
    """One rank of a tile; the first begins with the bias, the last writes the result."""
    vectors, offsets, weights = refs[:count], refs[count : 2 * count], refs[2 * count : 3 * count]
    out, total = refs[3 * count :]
    rank, last = pl.program_id(2), pl.num_programs(2) - 1

    @pl.when(rank == 0)
    def _() -> None:
        total[...] = jnp.broadcast_to(bias[...], total.shape)

    for first in range(0, total.shape[0], group):
        part = slice(first, min(first + group, total.shape[0]))
        product: Any = mix[rank]
        for vector, offset, weight in zip(vectors, offsets, weights, strict=True):
            product = product * (offset[pl.ds(rank, 1)] + _dot(vector[part], weight[...]))
        total[part] += product

    @pl.when(rank == last)
    def _() -> None:
        out[...] = total[...].astype(out.dtype)


def _tile(given: Given) -> tuple[int, int]:
    """Rows and columns: no more than there are."""
    _, _, size, width = given.sizes
    return min(ROWS, -(-size // 16) * 16), min(COLUMNS, width)


def _dot(a: Array, b: Array) -> Array:
    """Summed in float32; float32 is multiplied as such."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

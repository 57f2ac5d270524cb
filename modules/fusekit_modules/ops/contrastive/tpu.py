"""Mosaic kernels: scores are made of a tile of products and used up in the chip's memory.

The forward kernel goes through all tiles once, for results by row and by column. The backward one
makes each tile's scores again and of them both gradients, a block of rows a launch; gradients by
columns are added up in place from launch to launch.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool

from fusekit_modules.ops.contrastive._tiles import LOG2E, ends, filled, gradient, longer, scalars
from fusekit_modules.ops.contrastive._tpu_kernels import (
    LANES,
    SUBLANES,
    backward_kernel,
    forward_kernel,
    packed,
)
from fusekit_modules.ops.contrastive.reference import Pair
from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives
from fusekit_modules.ops.target import Target

MEMORY = 64 << 20
"""Bytes of on-chip memory that a kernel may take."""
COLUMNS = 1 << 19
"""So many columns' running results still fit beside the rest."""
PRODUCTS = 3  # of a score


@dataclass(frozen=True)
class Blocks:
    """Sizes of a tile.

    Args:
      rows, columns: of the tile of scores, multiples of 16 and of 128.
      group: columns that are worked on at a time, forward.
      block: rows of a launch, backward.
    """

    rows: int = 512
    columns: int = 512
    group: int = 256
    block: int = 2048


FORWARD, BACKWARD = Blocks(1024, 1024, 512), Blocks()
VOLUMES = Blocks(512, 1024, 256), Blocks(512, 256)
"""Of several products a score, forward and backward."""


def unsupported(kind: Kind, given: Operands, target: Target, direction: str) -> str | None:
    """Why these kernels cannot, or `None`."""
    if target.platform != "tpu":
        return f"the target is a {target}"
    if given.x.dtype != jnp.bfloat16 and not target.interpret:
        return f"it multiplies bfloat16, and vectors are of {given.x.dtype}"
    if given.y.shape[0] > PRODUCTS:
        return f"{given.y.shape[0]} products a score are more than {PRODUCTS}"
    if _needed(kind, given) > MEMORY * 3 // 4:
        return f"vectors of {given.x.shape[1]} features do not fit into its memory"
    if direction == "forward" and given.y.shape[1] > COLUMNS:
        return f"{given.y.shape[1]} columns are more than {COLUMNS}"
    return None


def forward(
    kind: Kind,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    target: Target,
    blocks: Blocks | None = None,
) -> Pair:
    """As `reference.forward`."""
    blocks = _fitting(blocks or default(kind, "forward"), given)
    full, row_mask, column_mask = _filled(blocks, given, rows, columns)
    (size, width), (products, count, _) = full.x.shape, full.y.shape
    of_row = pl.BlockSpec((blocks.rows, 1), lambda i, j: (i, 0))
    of_column = pl.BlockSpec((1, blocks.columns), lambda i, j: (0, j))
    sides = [] if full.row is None else [full.row[:, None], full.column[None]]
    grid = (size // blocks.rows, count // blocks.columns)
    kept = (grid[1], SUBLANES, blocks.columns)
    by_row, by_column = pl.pallas_call(
        partial(forward_kernel, kind, blocks.group),
        grid=grid,
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((blocks.rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec((products, blocks.columns, width), lambda i, j: (0, j, 0)),
            *[of_row, of_column] * (2 if sides else 1),
        ],
        out_specs=[
            of_row,
            pl.BlockSpec((1, blocks.columns), lambda i, j: (0, jnp.where(i == grid[0] - 1, j, 0))),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((size, 1), jnp.float32),
            jax.ShapeDtypeStruct((1, count), jnp.float32),
        ],
        scratch_shapes=[
            *[pltpu.VMEM((blocks.rows, LANES), jnp.float32)] * 2,
            *[pltpu.VMEM(kept, jnp.float32)] * 2,
        ],
        interpret=target.interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * size * count * width,
            bytes_accessed=full.x.nbytes + grid[0] * full.y.nbytes,
            transcendentals=2 * size * count,
        ),
        name=f"contrast_{kind.score}_{kind.reduction}",
    )(scalars(full)[None], full.x, full.y, row_mask[:, None], column_mask[None], *sides)
    by_row, by_column = by_row[: rows.shape[0], 0], by_column[0, : columns.shape[0]]
    if kind.reduction == "softplus":
        return jnp.where(rows, by_row, 0), jnp.zeros(columns.shape, jnp.float32)
    by_row = jnp.where(rows & jnp.any(columns), by_row / LOG2E, 0)
    return by_row, jnp.where(columns & jnp.any(rows), by_column / LOG2E, 0)


def backward(
    kind: Kind,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    positives: Positives,
    found: Pair,
    grads: Pair,
    *,
    target: Target,
    blocks: Blocks | None = None,
) -> Operands:
    """As `reference.backward`; `grads` are zero in what does not count."""
    blocks = _fitting(blocks or default(kind, "backward"), given)
    full, row_mask, column_mask = _filled(blocks, given, rows, columns)
    (size, width), count = full.x.shape, full.y.shape[1]
    parts = -(-size // blocks.block)
    each = -(-size // parts // blocks.rows) * blocks.rows
    right = positives.counting(rows, columns)
    of_rows, of_columns = ends(found, grads, right, (each * parts, count))
    row, column = (
        packed(*of_rows, row_mask, full.row),
        packed(*of_columns, column_mask, full.column),
    )
    call = partial(_both, kind, blocks, target, scalars(full)[None], full.y, column)

    def one(by_y: Array, part: tuple[Array, Array]) -> tuple[Array, tuple[Array, list[Array]]]:
        by_x, by_y, *sums = call(*part, by_y)
        return by_y, (by_x, sums)

    x = longer(full.x, each * parts).reshape(parts, each, width)
    row = row.T.reshape(parts, each, SUBLANES)
    by_y, (by_x, sums) = lax.scan(one, jnp.zeros(full.y.shape, jnp.float32), (x, row))
    of_rows = [jnp.sum(lanes, axis=2).reshape(-1) for lanes in sums[:2]]
    of_columns = [jnp.sum(sublanes, axis=(0, 1)) for sublanes in sums[2:]]
    return gradient(kind, given, by_x.reshape(-1, width), by_y, of_rows + of_columns)


def _both(
    kind: Kind,
    blocks: Blocks,
    target: Target,
    given: Array,
    y: Array,
    column: Array,
    x: Array,
    row: Array,
    by_y: Array,
) -> list[Array]:
    """The gradient by a block of rows, that by columns so far; of `softplus` sums by row, and of
    volumes two, and one by column."""
    (size, width), (products, count, _) = x.shape, y.shape
    tile = pl.BlockSpec((products, blocks.columns, width), lambda j: (0, j, 0))
    of_column = pl.BlockSpec((SUBLANES, blocks.columns), lambda j: (0, j))
    volume = kind.score == "volume"
    tall = 2 if volume else 1 if kind.reduction == "softplus" else 0

    def whole(end: int) -> Any:
        return pl.BlockSpec((size, end), lambda j: (0, 0))

    return pl.pallas_call(
        partial(backward_kernel, kind, blocks.rows),
        grid=(count // blocks.columns,),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            whole(width),
            tile,
            whole(SUBLANES),
            of_column,
            tile,
        ],
        out_specs=[whole(width), tile, *[whole(LANES)] * tall, *[of_column] * volume],
        out_shape=[
            jax.ShapeDtypeStruct((size, width), jnp.float32),
            jax.ShapeDtypeStruct(y.shape, jnp.float32),
            *[jax.ShapeDtypeStruct((size, LANES), jnp.float32)] * tall,
            *[jax.ShapeDtypeStruct((SUBLANES, count), jnp.float32)] * volume,
        ],
        input_output_aliases={5: 1},
        interpret=target.interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            flops=6 * products * size * count * width,
            bytes_accessed=(2 + 4) * size * width + (2 + 8) * products * count * width,
            transcendentals=2 * size * count,
        ),
        name=f"contrast_{kind.score}_{kind.reduction}_gradients",
    )(given, x, y, row, column, by_y)


def default(kind: Kind, direction: str) -> Blocks:
    """The best of those tried, by the compiler's estimate for a v5e."""
    forward, backward = VOLUMES if kind.score == "volume" else (FORWARD, BACKWARD)
    return forward if direction == "forward" else backward


def _needed(kind: Kind, given: Operands) -> int:
    """Bytes of vectors and gradients that the backward kernel holds, each twice."""
    blocks, (products, _, width) = default(kind, "backward"), given.y.shape
    return 2 * width * ((2 + 4) * blocks.block + (2 + 4 + 4) * products * blocks.columns)


def _fitting(blocks: Blocks, given: Operands) -> Blocks:
    """No more rows and columns than the powers of two that hold those there are."""
    rows, columns = (1 << (size - 1).bit_length() for size in (len(given.x), given.y.shape[1]))
    rows, columns = min(blocks.rows, max(rows, 16)), min(blocks.columns, max(columns, LANES))
    return replace(blocks, rows=rows, columns=columns, group=min(blocks.group, columns))


def _filled(blocks: Blocks, given: Operands, rows: Array, columns: Array) -> tuple:
    return filled(
        given,
        rows,
        columns,
        row_multiple=blocks.rows,
        column_multiple=blocks.columns,
        width_multiple=LANES,
    )

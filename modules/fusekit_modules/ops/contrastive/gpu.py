"""Triton kernels: scores are made of a tile of products and used up before the next one.

The forward kernel goes through the columns once, with the running result by row in registers, and
leaves that by column for each block of rows. The backward one writes the gradients by products of a
chunk of rows, `[chunk, n]`, which two ordinary products of matrices then make the gradients by
vectors: for the widths of embeddings, registers do not hold their sums beside a tile of scores.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool

from fusekit_modules.ops.contrastive._gpu_kernels import backward_kernel, forward_kernel
from fusekit_modules.ops.contrastive._tiles import LOG2E, ends, filled, gradient, longer, scalars
from fusekit_modules.ops.contrastive.reference import Pair
from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives, dot
from fusekit_modules.ops.target import Target
from fusekit_modules.ops.triton import LACKING, plgpu

PROGRAMS = 264
"""As many programs as run at once: two on each multiprocessor of an H100."""
CHUNK = 1 << 26
"""Gradients by products of a chunk: 128 MiB of them in bfloat16."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of a tile, powers of two of 16 and more, and what Triton is told.

    Args:
      rows, columns: of the tile of scores.
      depth: features of 2 bytes multiplied at a time.
      warps, stages: warps of a program, and how many steps ahead it loads.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 64
    warps: int = 4
    stages: int = 3

    @property
    def params(self) -> Any:
        return plgpu.CompilerParams(num_warps=self.warps, num_stages=self.stages)


FORWARD, BACKWARD = Blocks(), Blocks(warps=8)
"""The fastest of those tried on an H100, with 8192 and with 32768 rows."""


def unsupported(kind: Kind, given: Operands, target: Target, direction: str) -> str | None:
    """Why these kernels cannot, or `None`."""
    del direction
    if target.platform != "gpu":
        return f"the target is a {target}"
    if plgpu is None:
        return LACKING
    if given.x.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return f"vectors are of {given.x.dtype}"
    if target.capability is not None and target.capability < (8, 0):
        return f"the target is a {target}, which is below 8.0"
    if kind.score == "volume" and given.x.dtype == jnp.float32 and not target.interpret:
        return "float32 volumes take products of float32, and it multiplies TF32"
    if given.y.shape[0] > 3:
        return f"{given.y.shape[0]} products a score are more than 3"
    return None


def forward(
    kind: Kind,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    target: Target,
    blocks: Blocks = FORWARD,
) -> Pair:
    """As `reference.forward`."""
    blocks = _blocks(given, blocks)
    full, *masks = _filled(blocks, given, rows, columns)
    (size, width), (products, count, _) = full.x.shape, full.y.shape
    row_blocks, tiles = size // blocks.rows, count // blocks.columns
    splits = _splits(row_blocks, tiles)
    whole = pl.BlockSpec((count,), lambda i, j: (0,))
    found = pl.pallas_call(
        partial(forward_kernel, kind, blocks, tiles // splits),
        grid=(row_blocks, splits),
        in_specs=[
            pl.BlockSpec((blocks.rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec(full.y.shape, lambda i, j: (0, 0, 0)),
            *_small(blocks, whole, kind),
        ],
        out_specs=[
            pl.BlockSpec((None, blocks.rows), lambda i, j: (j, i)),
            pl.BlockSpec((None, count), lambda i, j: (i, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((splits, size), jnp.float32),
            jax.ShapeDtypeStruct((row_blocks, count), jnp.float32),
        ],
        interpret=target.interpret,
        compiler_params=blocks.params,
        cost_estimate=pl.CostEstimate(
            flops=2 * size * count * width * products,
            bytes_accessed=full.x.nbytes + full.y.nbytes + 4 * row_blocks * count,
            transcendentals=2 * size * count,
        ),
        name=f"contrast_{kind.score}_{kind.reduction}",
    )(*_inputs(full, masks))
    if kind.reduction == "softplus":
        sums = jnp.sum(found[0], axis=0)[: rows.shape[0]]
        return jnp.where(rows, sums, 0), jnp.zeros(columns.shape, jnp.float32)
    by_row, by_column = (jax.nn.logsumexp(part / LOG2E, axis=0) for part in found)
    by_row = jnp.where(rows & jnp.any(columns), by_row[: rows.shape[0]], 0)
    return by_row, jnp.where(columns & jnp.any(rows), by_column[: columns.shape[0]], 0)


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
    blocks: Blocks = BACKWARD,
    chunk: int = CHUNK,
) -> Operands:
    """As `reference.backward`; `chunk` bounds the gradients by products that there are at once."""
    blocks = _blocks(given, blocks)
    full, row_mask, column_mask = _filled(blocks, given, rows, columns)
    size, (products, count, width) = full.x.shape[0], full.y.shape
    most = max(blocks.rows, chunk // (products * count))
    parts = -(-size // most)
    each = -(-size // parts // blocks.rows) * blocks.rows
    right = positives.counting(rows, columns)
    of_rows, of_columns = ends(found, grads, right, (each * parts, count))
    given_rows = (full.x, full.row, row_mask, *of_rows)

    def cut(values: Array) -> Array:
        return longer(values, each * parts).reshape(parts, each, *values.shape[1:])

    def one(sums: tuple, part: tuple) -> tuple[tuple, tuple]:
        x, side, mask, *stats = part
        inputs = _inputs(full._replace(x=x, row=side), (mask, column_mask)), (*stats, *of_columns)
        slopes, by_rows, by_columns = _slopes(kind, blocks, target, full.y.shape, each, *inputs)
        by_x = sum(dot(slope, y) for slope, y in zip(slopes, full.y, strict=True))
        by_y = jnp.stack([dot(slope.T, x) for slope in slopes])
        return jax.tree.map(jnp.add, sums, (by_y, by_columns)), (by_x, by_rows)

    tall = [jnp.zeros(count, jnp.float32)] if kind.score == "volume" else []
    first = jnp.zeros(full.y.shape, jnp.float32), tall
    (by_y, by_columns), (by_x, by_rows) = lax.scan(one, first, jax.tree.map(cut, given_rows))
    sums = [values.reshape(-1) for values in by_rows] + by_columns
    return gradient(kind, given, by_x.reshape(-1, width), by_y, sums)


def _slopes(
    kind: Kind,
    blocks: Blocks,
    target: Target,
    shape: tuple[int, int, int],
    size: int,
    inputs: tuple,
    stats: tuple,
) -> tuple[list[Array], list[Array], list[Array]]:
    """Gradients by products `[size, n]`, and sums by row and by column of a chunk of rows."""
    (products, count, width), dtype = shape, inputs[0].dtype
    row_blocks, tiles = size // blocks.rows, count // blocks.columns
    of_row = pl.BlockSpec((blocks.rows,), lambda i, j: (i,))
    of_column = pl.BlockSpec((blocks.columns,), lambda i, j: (j,))
    tall = 2 if kind.score == "volume" else 1 if kind.reduction == "softplus" else 0
    wide = 1 if kind.score == "volume" else 0
    outs = [
        *[(pl.BlockSpec((blocks.rows, blocks.columns), lambda i, j: (i, j)), size, dtype)]
        * products,
        *[(pl.BlockSpec((None, blocks.rows), lambda i, j: (j, i)), tiles, jnp.float32)] * tall,
        *[(pl.BlockSpec((None, blocks.columns), lambda i, j: (i, j)), row_blocks, jnp.float32)]
        * wide,
    ]
    ends = [count] * products + [size] * tall + [count] * wide
    found = pl.pallas_call(
        partial(backward_kernel, kind, blocks),
        grid=(row_blocks, tiles),
        in_specs=[
            pl.BlockSpec((blocks.rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec((products, blocks.columns, width), lambda i, j: (0, j, 0)),
            *_small(blocks, of_column, kind),
            *[of_row] * 4,
            *[of_column] * 4,
        ],
        out_specs=[out[0] for out in outs],
        out_shape=[
            jax.ShapeDtypeStruct((lead, end), dtype)
            for (_, lead, dtype), end in zip(outs, ends, strict=True)
        ],
        interpret=target.interpret,
        compiler_params=blocks.params,
        cost_estimate=pl.CostEstimate(
            flops=2 * size * count * width * products,
            bytes_accessed=(size + products * count) * width * 2 + 2 * products * size * count,
            transcendentals=2 * size * count,
        ),
        name=f"contrast_{kind.score}_{kind.reduction}_slopes",
    )(*inputs, *stats)
    slopes, rest = list(found[:products]), [jnp.sum(part, axis=0) for part in found[products:]]
    return slopes, rest[:tall], rest[tall:]


def _blocks(given: Operands, blocks: Blocks) -> Blocks:
    """As many bytes of features at a time, whatever the dtype; one product of a volume's several
    has fewer columns, since each has sums of its own in registers."""
    products = given.y.shape[0]
    columns = blocks.columns >> (products - 1).bit_length()
    depth = blocks.depth * 2 // given.x.dtype.itemsize
    return replace(blocks, columns=max(columns, 16), depth=max(depth, 16))


def _filled(blocks: Blocks, given: Operands, rows: Array, columns: Array) -> tuple:
    return filled(
        given,
        rows,
        columns,
        row_multiple=blocks.rows,
        column_multiple=blocks.columns,
        width_multiple=blocks.depth,
    )


def _splits(row_blocks: int, tiles: int) -> int:
    """Into how many parts the columns are cut, so that there are programs enough."""
    fits = (n for n in range(1, tiles + 1) if tiles % n == 0 and row_blocks * n <= PROGRAMS)
    return max(fits, default=1)


def _inputs(full: Operands, masks: Any) -> tuple[Array, ...]:
    sides = () if full.row is None else (full.row, full.column)
    return (full.x, full.y, scalars(full), *masks, *sides)


def _small(blocks: Blocks, of_column: Any, kind: Kind) -> list[Any]:
    """Blocks of the scalars, the masks and what volumes take besides."""
    of_row = pl.BlockSpec((blocks.rows,), lambda i, j: (i,))
    sides = [of_row, of_column] * (2 if kind.score == "volume" else 1)
    return [pl.BlockSpec((4,), lambda i, j: (0,)), *sides]

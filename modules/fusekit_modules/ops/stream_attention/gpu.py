"""Stream attention for NVIDIA's GPUs, in Pallas by way of Triton: all streams in one launch.

Needs no alignment: lengths are masked, and sizes of heads rounded up to a power of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.stream_attention import floors
from fusekit_modules.ops.stream_attention._gpu_backward import keys_tile, queries_tile
from fusekit_modules.ops.stream_attention._gpu_forward import one_tile
from fusekit_modules.ops.stream_attention._gpu_tiles import power
from fusekit_modules.ops.stream_attention.floors import Floor
from fusekit_modules.ops.stream_attention.form import SEGMENTS, Form, Queries, Source, packed
from fusekit_modules.ops.target import Target
from fusekit_modules.ops.triton import LACKING, plgpu

OLDEST = (8, 0)
"""Compute capability from which on tensor cores multiply bfloat16."""
WIDEST = 128
LONGEST = 8192


@dataclass(frozen=True)
class Tiles:
    """How a kernel is cut: rows of a tile of queries and of keys, Triton's parameters, and whether
    exponentials are fused into instructions that flush subnormal numbers."""

    queries: int = 64
    keys: int = 64
    warps: int = 4
    stages: int = 2
    fused: bool = False

    def of(
        self, form: Form, queries: Sequence[Queries], sources: Sequence[Source]
    ) -> tuple[int, int, bool]:
        """Rows of tiles: no more than the longest array needs, nor than float32 compiles soon."""
        longest = max(a[0].shape[1] for a in (*queries, *sources))
        most = power(longest) if queries[0].values.dtype.itemsize < 4 else min(power(longest), 32)
        return min(self.queries, most), min(self.keys, most), self.fused and not form.interpret

    @property
    def params(self) -> Any:
        return plgpu.CompilerParams(num_warps=self.warps, num_stages=self.stages)


FORWARD = Tiles(stages=3)
QUERIES = Tiles()
KEYS = Tiles()


def unsupported(
    target: Target, form: Form, queries: Sequence[Queries], sources: Sequence[Source]
) -> Reason:
    """Why the kernels cannot."""
    if target.platform != "gpu":
        return f"the target is a {target}"
    if plgpu is None:
        return LACKING
    if target.capability and target.capability < OLDEST:
        return f"{target} is older than {OLDEST[0]}.{OLDEST[1]}"
    array = queries[0].values
    if array.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"{array.dtype} is not float32, bfloat16 or float16"
    dim = array.shape[2] // form.heads
    if dim > WIDEST:
        return f"heads of {dim} are wider than {WIDEST}"
    if form.scale <= 0:
        return f"the scale {form.scale} is not positive"
    if packed(queries, sources):
        return SEGMENTS
    longest = max(s.key.shape[1] for s in sources)
    if longest > LONGEST:
        return f"{longest} tokens are more than {LONGEST}"
    return None


def forward(
    form: Form,
    queries: Sequence[Queries],
    sources: Sequence[Source],
    *,
    logs: bool = True,
    tiles: Tiles = FORWARD,
) -> list[tuple[Float[Array, "b q hd"], Float[Array, "b h q"]]]:
    """As `reference.forward`."""
    sizes = tiles.of(form, queries, sources)

    def kernel(streams: Any, read: Any, *outs: Any) -> None:
        def one(n: int, tile: Any, head: Any, batch: Any) -> None:
            mine = [read[s] for s in form.reads[n]]
            one_tile(form, streams[n], mine, outs[n], (tile, head, batch), sizes)

        _each([pl.cdiv(q.values.shape[1], sizes[0]) for q in streams], one)

    outs = [(_like(q.values), _logs(form, q.values) if logs else None) for q in queries]
    floor = floors.forward(form, queries, sources)
    call = _call(kernel, form, "forward", floor, tiles, sizes[0], queries, outs)
    return list(call(list(queries), list(sources)))


def backward(
    form: Form,
    queries: Sequence[Queries],
    sources: Sequence[Source],
    results: Sequence[tuple[Array, Array]],
    grads: Sequence[Float[Array, "b q hd"]],
    *,
    tiles: tuple[Tiles, Tiles] = (QUERIES, KEYS),
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """As `reference.backward`."""
    sizes = tiles[0].of(form, queries, sources)
    sizes_k = tiles[1].of(form, queries, sources)

    def of_queries(streams: Any, read: Any, kept: Any, *outs: Any) -> None:
        def one(n: int, tile: Any, head: Any, batch: Any) -> None:
            mine = [read[s] for s in form.reads[n]]
            queries_tile(form, streams[n], mine, kept[n], outs[n], (tile, head, batch), sizes)

        _each([pl.cdiv(q.values.shape[1], sizes[0]) for q in streams], one)

    def of_keys(streams: Any, read: Any, kept: Any, *outs: Any) -> None:
        def one(n: int, tile: Any, head: Any, batch: Any) -> None:
            mine = [(streams[r], *kept[r]) for r in form.readers(n)]
            keys_tile(form, read[n], mine, outs[n], (tile, head, batch), sizes_k)

        _each([pl.cdiv(s.key.shape[1], sizes_k[1]) for s in read], one)

    streams, read = list(queries), list(sources)
    floor = floors.backward(form, queries, sources)
    kept = [(out, lse, grad) for (out, lse), grad in zip(results, grads, strict=True)]
    outs = [(_like(q.values), _logs(form, q.values)) for q in queries]
    first = _call(of_queries, form, "queries", floor, tiles[0], sizes[0], queries, outs)(
        streams, read, kept
    )
    kept = [(lse, d[1], grad) for (_, lse, grad), d in zip(kept, first, strict=True)]
    outs = [(_like(s.key), _like(s.value)) for s in sources]
    pairs = _call(of_keys, form, "keys", floor, tiles[1], sizes_k[1], sources, outs)(
        streams, read, kept
    )
    return [d for d, _ in first], list(pairs)


def _call(
    kernel: Callable[..., None],
    form: Form,
    name: str,
    floor: Floor,
    tiles: Tiles,
    rows: int,
    over: Sequence[Queries] | Sequence[Source],
    outs: Any,
) -> Callable[..., Any]:
    """The kernel, on a grid of tiles of `rows` rows of `over`, heads and examples."""
    count = sum(pl.cdiv(array[0].shape[1], rows) for array in over)
    return pl.pallas_call(
        kernel,
        grid=(count, form.heads, over[0][0].shape[0]),
        out_shape=outs,
        compiler_params=tiles.params,
        cost_estimate=floor.estimate(),
        interpret=form.interpret,
        name=f"stream_attention_{name}",
    )


def _each(counts: list[int], run: Callable[..., None]) -> None:
    """Runs the array that the program's tile belongs to."""
    tile, head, batch = (pl.program_id(axis) for axis in range(3))
    start = 0
    for n, count in enumerate(counts):
        if len(counts) == 1:
            run(n, tile, head, batch)
            return
        mine = (tile >= start) & (tile < start + count)
        pl.when(mine)(partial(run, n, tile - start, head, batch))
        start += count


def _like(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _logs(form: Form, array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((array.shape[0], form.heads, array.shape[1]), jnp.float32)

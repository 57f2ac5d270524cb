"""Stream attention for TPUs, in Pallas by way of Mosaic: all streams in one launch.

Arrays stay `[b, t, heads·d]`: with heads on an axis of their own, 64 wide ones would be padded to
128 lanes and copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.reasons import other_chip, other_dtype
from fusekit_modules.ops.stream_attention import _tpu_backward, _tpu_forward, floors
from fusekit_modules.ops.stream_attention._tpu_tiles import LANES
from fusekit_modules.ops.stream_attention.floors import Floor
from fusekit_modules.ops.stream_attention.form import (
    SEGMENTS,
    Form,
    Queries,
    Source,
    longest,
    packed,
)
from fusekit_modules.ops.target import Target

GENERATIONS = ("v5e", "v5p", "v6e")
"""For which it was compiled; it has not run on any."""
LONGEST = 1024
"""Tokens of a stream or source; whole ones are in the fast memory."""
VMEM = 64 * 2**20


def unsupported(
    target: Target, form: Form, queries: Sequence[Queries], sources: Sequence[Source]
) -> Reason:
    """Why the kernel cannot."""
    if (reason := unfit(target, form, queries, heads_of=16)) is not None:
        return reason
    if packed(queries, sources):
        return SEGMENTS
    if (tokens := longest(queries, sources)) > LONGEST:
        return f"{tokens} tokens are more than {LONGEST}"
    return None


def unfit(target: Target, form: Form, queries: Sequence[Queries], *, heads_of: int) -> Reason:
    """Why a kernel for TPUs cannot, whatever the streams' lengths; it takes heads of a multiple of
    so many features."""
    array = queries[0].values
    dim = array.shape[2] // form.heads
    odd = f"heads of {dim} do not divide by {heads_of}" if dim % heads_of else None
    return other_chip(target, GENERATIONS) or other_dtype(array) or odd


def together(form: Form, width: int) -> int:
    """How many heads share a program: the fewest that fill whole lanes, or all."""
    dim = width // form.heads
    fitting = [n for n in range(1, form.heads) if form.heads % n == 0 and n * dim % LANES == 0]
    return fitting[0] if fitting else form.heads


def forward(
    form: Form, queries: Sequence[Queries], sources: Sequence[Source], *, logs: bool = True
) -> list[tuple[Float[Array, "b q hd"], Float[Array, "b h q"]]]:
    """As `reference.forward`."""
    grid = _Grid.of(form, queries)

    def run(streams: Any, read: Any, *outs: Any) -> None:
        _tpu_forward.kernel(form, grid.heads, streams, read, outs)

    outs = [(q.values, grid.logs(q.values) if logs else None) for q in queries]
    floor = floors.forward(form, queries, sources)
    found = grid.call(run, "forward", floor, form, (_rows(queries), _rows(sources)), outs)
    if not logs:
        return list(found)
    return [(out, lse.reshape(out.shape[0], form.heads, -1)) for out, lse in found]


def backward(
    form: Form,
    queries: Sequence[Queries],
    sources: Sequence[Source],
    results: Sequence[tuple[Array, Array]],
    grads: Sequence[Float[Array, "b q hd"]],
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """As `reference.backward`."""
    grid = _Grid.of(form, queries)

    def run(streams: Any, read: Any, kept: Any, d_queries: Any, pairs: Any) -> None:
        _tpu_backward.kernel(form, grid.heads, streams, read, kept, d_queries, pairs)

    kept = [
        (out, lse.reshape(grid.logs(out).shape), grad)
        for (out, lse), grad in zip(results, grads, strict=True)
    ]
    given = (_rows(queries), _rows(sources), kept)
    outs = ([q.values for q in queries], [(s.key, s.value) for s in sources])
    floor = floors.backward(form, queries, sources)
    values, pairs = grid.call(run, "backward", floor, form, given, outs)
    return list(values), list(pairs)


@dataclass(frozen=True)
class _Grid:
    """A program for each example and group of `heads` heads, which have `wide` lanes."""

    batch: int
    groups: int
    heads: int
    wide: int

    @staticmethod
    def of(form: Form, queries: Sequence[Queries]) -> "_Grid":
        batch, _, width = queries[0].values.shape
        heads = together(form, width)
        return _Grid(batch, form.heads // heads, heads, width // form.heads * heads)

    def logs(self, array: Array) -> jax.ShapeDtypeStruct:
        """Logarithms by group, for these queries."""
        shape = (self.batch, self.groups, self.heads, array.shape[1])
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def spec(self, array: Any) -> pl.BlockSpec:
        """What a program sees of tokens `[b, t, hd]`, masks `[b, 1, 1, t]` and logarithms."""
        if array.ndim == 3:
            return pl.BlockSpec((1, array.shape[1], self.wide), lambda b, g: (b, 0, g))
        of_group = array.shape[1] > 1
        return pl.BlockSpec((1, 1, *array.shape[2:]), lambda b, g: (b, g * of_group, 0, 0))

    def call(self, run: Any, name: str, floor: Floor, form: Form, given: Any, outs: Any) -> Any:
        """Calls a kernel; refs of the tree `given` and of the items of `outs` are its arguments."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), outs)
        return pl.pallas_call(
            run,
            grid=(self.batch, self.groups),
            in_specs=jax.tree.map(self.spec, given),
            out_specs=jax.tree.map(self.spec, shapes),
            out_shape=shapes,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM
            ),
            cost_estimate=floor.estimate(),
            interpret=form.interpret,
            name=f"stream_attention_{name}",
        )(*given)


def _rows(given: Sequence[Any]) -> list[Any]:
    """Masks as float32 `[b, 1, 1, t]`."""
    return [
        g if g.mask is None else g._replace(mask=g.mask.astype(jnp.float32)[:, None, None, :])
        for g in given
    ]

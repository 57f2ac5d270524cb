"""Stream attention for TPUs, in Pallas by way of Mosaic: all streams in one launch.

Arrays stay `[b, t, heads·d]`: with heads on an axis of their own, 64 wide ones would be padded to
128 lanes and copied.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.stream_attention import floors
from fusekit_modules.ops.stream_attention._tpu_forward import LANES, kernel
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source
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
    if target.platform != "tpu":
        return f"the target is a {target}"
    if target.generation not in GENERATIONS:
        return f"it was not compiled for {target}"
    array = queries[0].values
    if array.dtype not in (jnp.float32, jnp.bfloat16):
        return f"{array.dtype} is not float32 or bfloat16"
    dim = array.shape[2] // form.heads
    if dim % 16:
        return f"heads of {dim} do not divide by 16"
    longest = max(a[0].shape[1] for a in (*queries, *sources))
    if longest > LONGEST:
        return f"{longest} tokens are more than {LONGEST}"
    return None


def together(form: Form, width: int) -> int:
    """How many heads share a program: the fewest that fill whole lanes, or all."""
    dim = width // form.heads
    fitting = [n for n in range(1, form.heads) if form.heads % n == 0 and n * dim % LANES == 0]
    return fitting[0] if fitting else form.heads


def forward(
    form: Form, queries: Sequence[Queries], sources: Sequence[Source], *, logs: bool = True
) -> list[tuple[Float[Array, "b q hd"], Float[Array, "b h q"]]]:
    """As `reference.forward`."""
    batch, _, width = queries[0].values.shape
    heads = together(form, width)
    groups, wide = form.heads // heads, width // form.heads * heads

    def tokens(array: Array) -> pl.BlockSpec:
        return pl.BlockSpec((1, array.shape[1], wide), lambda b, g: (b, 0, g))

    def row(mask: Array | None) -> pl.BlockSpec | None:
        if mask is None:
            return None
        return pl.BlockSpec((1, 1, mask.shape[1]), lambda b, g: (b, 0, 0))

    def log_spec(length: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, heads, length), lambda b, g: (b, g, 0, 0))

    def log_shape(length: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, groups, heads, length), jnp.float32)

    lengths = [q.values.shape[1] for q in queries]
    floor = floors.forward(form, queries, sources)
    pairs = floor.flops // (4 * width * batch)
    found = pl.pallas_call(
        lambda streams, read, *outs: kernel(form, heads, streams, read, outs),
        grid=(batch, groups),
        in_specs=[
            [Queries(tokens(q.values), row(q.mask)) for q in queries],
            [Source(tokens(s.key), tokens(s.value), row(s.mask)) for s in sources],
        ],
        out_specs=[
            (tokens(q.values), log_spec(n) if logs else None)
            for q, n in zip(queries, lengths, strict=True)
        ],
        out_shape=[
            (
                jax.ShapeDtypeStruct(q.values.shape, q.values.dtype),
                log_shape(n) if logs else None,
            )
            for q, n in zip(queries, lengths, strict=True)
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM
        ),
        cost_estimate=pl.CostEstimate(
            flops=floor.flops,
            bytes_accessed=floor.bytes,
            transcendentals=batch * form.heads * pairs,
        ),
        interpret=form.interpret,
        name="stream_attention_forward",
    )(*_rows(queries, sources))
    if not logs:
        return found
    return [(out, lse.reshape(batch, form.heads, -1)) for out, lse in found]


def _rows(queries: Sequence[Queries], sources: Sequence[Source]) -> tuple[list[Any], list[Any]]:
    """Masks as float32 `[b, 1, t]`."""

    def one(given: Any) -> Any:
        if given.mask is None:
            return given
        return given._replace(mask=given.mask.astype(jnp.float32)[:, None, :])

    return [one(q) for q in queries], [one(s) for s in sources]

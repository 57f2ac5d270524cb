"""tokamax's kernel for TPUs, where the package is installed (`pip install 'fusekit[tokamax]'`).

It gives the sum over all rows and nothing else: no row can be weighed or left out, no bias added,
and no part of a vocabulary done alone. Rows that do not count are zeros here: each adds log v to
the sum, which is taken off again, and nothing to the gradient of the kernel.

It looks at JAX's default device: to compile ahead of time, lower under `jax.default_device`. It
cannot be interpreted, so that only what is around it is tried without a TPU.
"""

from math import log
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from fusekit_modules.ops import optional
from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.linear_cross_entropy.shards import Shards
from fusekit_modules.ops.target import Target

ROWS = 1024
"""What its rows are a multiple of."""


def unsupported(target: Target, given: Any, shards: Shards | None, *, weighed: bool) -> Reason:
    """Why it cannot; `weighed`: whether classes are, or the target is spread over them."""
    if target.platform != "tpu":
        return f"the target is a {target}"
    if (reason := optional.lacks_tokamax()) is not None:
        return reason
    if given.bias is not None:
        return "it adds no bias: `bias: false` on the head"
    if weighed:
        return "it knows no smoothing and no class weights"
    if shards is not None and shards.vocabulary is not None:
        return f"the mesh axis {shards.vocabulary} splits the vocabulary"
    if given.features.dtype not in (jnp.bfloat16, jnp.float32):
        return f"{given.features.dtype} is not float32 or bfloat16"
    if given.features.shape[-1] % 8:
        return f"a width of {given.features.shape[-1]} does not divide by 8"
    return None


def total(
    features: Float[Array, "*n d"],
    kernel: Float[Array, "d v"],
    target: Int[Array, "*n"],
    counts: Bool[Array, "*n"],
    shards: Shards | None,
) -> Float[Array, ""]:
    """The sum of -log p_y over rows that count; features are zero in the others."""
    kernel = kernel.astype(features.dtype)
    if shards is None:
        found = _summed(features, kernel, target)
    else:
        rows = shards.rows
        call = jax.shard_map(
            _summed,
            mesh=shards.mesh,
            in_specs=(P(*rows, None), P(), rows),
            out_specs=P(shards.over),
            check_vma=False,
        )
        found = call(features, kernel, target)
    parts = 1 if shards is None else len(found)
    short = -(features.size // features.shape[-1] // parts) % ROWS * parts
    skipped = jnp.sum(~counts) + short
    return jnp.sum(found) - skipped.astype(found.dtype) * log(kernel.shape[1])


def _summed(features: Array, kernel: Array, target: Array) -> Float[Array, "1"]:
    """One device's sum, rows filled up with zeros."""
    op = optional.tokamax().linear_softmax_cross_entropy_loss
    rows, labels = features.reshape(-1, features.shape[-1]), target.reshape(-1)
    short = -len(rows) % ROWS
    rows, labels = jnp.pad(rows, ((0, short), (0, 0))), jnp.pad(labels, (0, short))
    found = op(rows, labels, kernel, reduction="sum", implementation="mosaic_tpu")
    return found.astype(jnp.float32)[None]

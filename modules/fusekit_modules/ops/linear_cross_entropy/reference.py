"""Cross-entropy by all logits at once, in float32 or wider: the obvious form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fusekit_modules.ops.linear_cross_entropy.given import Ends, Linear


def forward(given: Linear, target: Int[Array, "n"]) -> Ends:
    """By row, log sum_c exp(l_c) and l_target, with l = features @ kernel + bias."""
    wide = jax.tree.map(lambda leaf: leaf.astype(given.wide), given)
    logits = jnp.dot(wide.features, wide.kernel, precision="highest")
    if wide.bias is not None:
        logits = logits + wide.bias
    mine = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
    return jax.nn.logsumexp(logits, axis=1), jnp.sum(mine * logits, axis=1)


def backward(given: Linear, target: Int[Array, "n"], total: Array, grads: Ends) -> Linear:
    """Gradients of what `forward` gives; `total` are its logs, over all of the vocabulary even
    where this is only a part of it."""
    wide = jax.tree.map(lambda leaf: leaf.astype(given.wide), given)
    logits = jnp.dot(wide.features, wide.kernel, precision="highest")
    if wide.bias is not None:
        logits = logits + wide.bias
    mine = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
    slope = grads[0][:, None] * jnp.exp(logits - total[:, None]) + grads[1][:, None] * mine
    return given.like(
        jnp.dot(slope, wide.kernel.T, precision="highest"),
        jnp.dot(wide.features.T, slope, precision="highest"),
        None if given.bias is None else jnp.sum(slope, axis=0),
    )

"""Token routing: who goes to which expert, and the experts' feed-forward networks. No drops."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, Int

from fusekit.parameter import parameter

Dispatch = Literal["ragged", "dense"]


class Routing(NamedTuple):
    """Choices of `n` tokens among `e` experts, and the sums that the auxiliary losses need."""

    expert: Int[Array, "n k"]
    weight: Float[Array, "n k"]
    assigned: Float[Array, "e"]
    probability: Float[Array, "e"]
    square: Float[Array, ""]
    tokens: Float[Array, ""]


def route(
    logits: Float[Array, "n e"], top: int, counts: Bool[Array, "n"], *, normalise: bool
) -> Routing:
    """Each token's `top` experts, most probable first; only tokens that count enter the sums."""
    probabilities = jax.nn.softmax(logits)
    weight, expert = jax.lax.top_k(probabilities, top)
    if normalise:
        weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    chosen = jnp.sum(jax.nn.one_hot(expert, logits.shape[1], dtype=logits.dtype), axis=1)
    one = counts.astype(logits.dtype)[:, None]
    square = jax.nn.logsumexp(logits, axis=1, keepdims=True) ** 2
    return Routing(
        expert,
        weight,
        jnp.sum(chosen * one, axis=0),
        jnp.sum(probabilities * one, axis=0),
        jnp.sum(square * one),
        jnp.sum(one),
    )


def auxiliary(routings: list[Routing], top: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Balance loss E * sum_e f_e p_e (Fedus 2022, eq. 4) and z loss, the mean squared log-sum-exp
    (Zoph 2022, eq. 5), over all tokens that count; zeros if none does, or nothing was routed."""
    if not routings:
        return jnp.zeros(()), jnp.zeros(())
    sums = [jnp.sum(jnp.stack(parts), axis=0) for parts in list(zip(*routings, strict=True))[2:]]
    assigned, probability, square, tokens = sums
    count = jnp.maximum(tokens, 1.0)
    share = jax.lax.stop_gradient(assigned) / (count * top)
    return assigned.size * jnp.sum(share * probability / count), square / count


class ExpertMlps(nnx.Module):
    """`e` feed-forward networks d -> hidden -> d with GELU, without biases."""

    def __init__(
        self, experts: int, width: int, hidden: int, *, dispatch: Dispatch, rngs: nnx.Rngs
    ):
        init = initializers.lecun_normal(batch_axis=0)
        self.dispatch = dispatch
        self.up = parameter(rngs, init, (experts, width, hidden), ("expert", "embed", "mlp"))
        self.down = parameter(rngs, init, (experts, hidden, width), ("expert", "mlp", "embed"))

    def __call__(
        self, x: Float[Array, "n d"], expert: Int[Array, "n k"], weight: Float[Array, "n k"]
    ) -> Float[Array, "n d"]:
        """Each token's experts, weighed: sum_k weight_k MLP_k(x)."""
        up, down = self.up[...].astype(x.dtype), self.down[...].astype(x.dtype)
        weight, (tokens, choices) = weight.astype(x.dtype), expert.shape
        if self.dispatch == "dense":
            gate = jnp.einsum("nk,nke->ne", weight, jax.nn.one_hot(expert, len(up), dtype=x.dtype))
            hidden = jax.nn.gelu(jnp.einsum("nd,edh->neh", x, up), approximate=False)
            return jnp.einsum("neh,ehd,ne->nd", hidden, down, gate)
        order = jnp.argsort(expert.reshape(-1), stable=True)
        sizes = jnp.bincount(expert.reshape(-1), length=len(up)).astype(jnp.int32)
        grouped = x[order // choices]
        hidden = jax.nn.gelu(jax.lax.ragged_dot(grouped, up, sizes), approximate=False)
        out = jax.lax.ragged_dot(hidden, down, sizes)[jnp.argsort(order)]
        return jnp.einsum("nkd,nk->nd", out.reshape(tokens, choices, -1), weight)

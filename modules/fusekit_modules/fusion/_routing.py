"""Token routing: who goes to which expert, and the experts' feed-forward networks. No drops."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, Int

from fusekit.layout import Layout
from fusekit.parameter import parameter
from fusekit_modules.fusion._expert_parallel import ExpertPlace, travel

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
        self,
        x: Float[Array, "b t d"],
        expert: Int[Array, "n k"],
        weight: Float[Array, "n k"],
        *,
        layout: Layout | None = None,
    ) -> Float[Array, "b t d"]:
        """Each token's experts, weighed: sum_k weight_k MLP_k(x); `n` are the tokens in order."""
        up, down = self.up[...].astype(x.dtype), self.down[...].astype(x.dtype)
        weight, choices = weight.astype(x.dtype), expert.shape[1]
        place = ExpertPlace.of(layout, x.shape, len(up), up.shape[-1])
        if place is not None:
            each = dense if self.dispatch == "dense" else ragged
            shape = (*x.shape[:2], choices)
            named, weight = expert.reshape(shape), weight.reshape(shape)
            return travel(x, named, weight, up, down, each=each, place=place)
        rows = x.reshape(-1, x.shape[-1])
        if self.dispatch == "dense":
            gate = jnp.einsum("nk,nke->ne", weight, jax.nn.one_hot(expert, len(up), dtype=x.dtype))
            return gated(rows, gate, up, down).reshape(x.shape)
        out = ragged(jnp.repeat(rows, choices, axis=0), expert.reshape(-1), up, down)
        return jnp.einsum("nkd,nk->nd", out.reshape(*expert.shape, -1), weight).reshape(x.shape)


def gated(
    x: Float[Array, "n d"], gate: Float[Array, "n e"], up: Array, down: Array
) -> Float[Array, "n d"]:
    """sum_e gate_e MLP_e(x), every expert on every row."""
    hidden = jax.nn.gelu(jnp.einsum("nd,edh->neh", x, up), approximate=False)
    return jnp.einsum("neh,ehd,ne->nd", hidden, down, gate)


def dense(x: Float[Array, "n d"], expert: Int[Array, "n"], up: Array, down: Array) -> Array:
    """Each row through its expert, by computing all of them; zeros where there is none such."""
    return gated(x, jax.nn.one_hot(expert, len(up), dtype=x.dtype), up, down)


def ragged(x: Float[Array, "n d"], expert: Int[Array, "n"], up: Array, down: Array) -> Array:
    """Each row through its expert, sorted by expert; zeros where there is none such."""
    order = jnp.argsort(expert, stable=True)
    sizes = jnp.bincount(expert, length=len(up)).astype(jnp.int32)
    hidden = jax.nn.gelu(jax.lax.ragged_dot(x[order], up, sizes), approximate=False)
    out = jax.lax.ragged_dot(hidden, down, sizes)[jnp.argsort(order)]
    return jnp.where((expert < len(up))[:, None], out, jnp.zeros((), out.dtype))

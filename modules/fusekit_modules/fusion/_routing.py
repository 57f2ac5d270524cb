"""Token routing: who goes to which expert, and the experts' feed-forward networks. No drops."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, Int

from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit_modules.fusion._expert_parallel import ExpertPlace, stay, together, travel
from fusekit_modules.layers.activation import gelu
from fusekit_modules.ops import Target
from fusekit_modules.ops.grouped_product import Sorted, able, grouped_product
from fusekit_modules.ops.rule import chosen, target_of

Dispatch = Literal["ragged", "dense"]
CPU: Mapping[str, Any] = {"target": Target("cpu")}


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
        self.experts, self.dispatch = experts, dispatch
        self.up = parameter(rngs, init, (experts, width, hidden), ("expert", "embed", "mlp"))
        self.down = parameter(rngs, init, (experts, hidden, width), ("expert", "mlp", "embed"))

    def __call__(
        self,
        x: Float[Array, "b t d"],
        expert: Int[Array, "n k"],
        weight: Float[Array, "n k"],
        *,
        context: Context,
    ) -> Float[Array, "b t d"]:
        """Each token's experts, weighed: sum_k weight_k MLP_k(x); `n` are the tokens in order. An
        expert of the number `e` is none: what it says is zero.

        Raises `BackendError` if the component asks by name for what cannot.
        """
        up, down = self.up[...].astype(x.dtype), self.down[...].astype(x.dtype)
        shape = (*x.shape[:2], expert.shape[1])
        named, weight = expert.reshape(shape), weight.astype(x.dtype).reshape(shape)
        place = ExpertPlace.of(context.layout, x.shape, len(up), up.shape[-1])
        if self.dispatch == "dense":
            picked = jax.nn.one_hot(expert, len(up), dtype=x.dtype)
            gate = jnp.einsum("nk,nke->ne", weight.reshape(expert.shape), picked)
            if place is not None:
                gate = gate.reshape(*x.shape[:2], len(up))
                return together(x, gate, up, down, gated=gated, place=place)
            # rows in one axis: by the TPU compiler's estimate a step is a fifth faster so
            return gated(x.reshape(-1, x.shape[-1]), gate, up, down).reshape(x.shape)
        rows = jax.ShapeDtypeStruct((expert.size, x.shape[2]), x.dtype)
        each = partial(ragged, how=how_of(context, rows, up))
        if place is not None:
            return travel(x, named, weight, up, down, each=each, place=place)
        return stay(x, named, weight, up, down, each=each, layout=context.layout)


def how_of(context: Context, rows: Any, weights: Any) -> dict[str, Any]:
    """What grouped products are told: the target, and the backend that the component gets. Arrays
    may be shapes alone."""
    target = target_of(context)
    choice = chosen(
        context,
        "grouped product",
        able(rows, weights, target),
        doubts={"tokamax": lambda: "its numbers were never seen"},
        because={"tpu": "XLA does not compile such products of many rows for TPUs"},
        shapes=(rows, weights),
    )
    return {"target": target, "backend": choice.backend}


def gated(
    x: Float[Array, "*b d"], gate: Float[Array, "*b e"], up: Array, down: Array
) -> Float[Array, "*b d"]:
    """sum_e gate_e MLP_e(x), every expert on every row."""
    hidden = gelu(jnp.einsum("...d,edh->...eh", x, up))
    return jnp.einsum("...eh,ehd,...e->...d", hidden, down, gate)


def ragged(
    x: Float[Array, "n d"],
    expert: Int[Array, "n k"],
    up: Array,
    down: Array,
    *,
    how: Mapping[str, Any] = CPU,
) -> Float[Array, "n k d"]:
    """Each row through its experts, sorted by expert; zeros where there is none such."""
    found = Sorted.by(expert.reshape(-1), len(up))
    hidden = grouped_product(found.spread(x, expert.shape[1]), found.sizes, up, **how)
    hidden = gelu(hidden)
    out = found.back(grouped_product(hidden, found.sizes, down, **how))
    return out.reshape(*expert.shape, x.shape[1])

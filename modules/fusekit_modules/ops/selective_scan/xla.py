"""The selective scan in plain JAX, for any device: token after token, in float32.

The backward pass makes the states of one chunk at a time again, from the state before it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.selective_scan.form import ABSENT, CHUNK, RESET, Given, Results, clean

UNROLL = 8
"""Tokens of one turn of a loop: on TPU, by estimate, a turn of 8 takes two thirds of 8 of one."""
UNROLL_CPU = 1
"""There, measured, a turn of 8 takes longer than 8 of one."""


class _Tokens(NamedTuple):
    """Chunks of tokens, first axes `[c, t, b]`; `grad` of the results."""

    x: Array
    delta: Array
    into: Array
    out: Array
    forgets: Array | None
    grad: Array | None


def unsupported(*_: Any) -> Reason:
    return None


def forward(given: Given, *, keep: bool = True, unroll: int = UNROLL) -> Results:
    """As `reference.forward`."""
    a, state = _wide(given.a), _wide(given.state)

    def chunk(state: Array, tokens: _Tokens) -> tuple[Array, tuple[Array, Array]]:
        def one(state: Array, now: _Tokens) -> tuple[Array, Array]:
            decay, more = _step(a, now)
            state = decay * state + more
            return state, jnp.sum(now.out[:, :, None] * state, axis=1).astype(given.x.dtype)

        last, y = jax.lax.scan(one, state, tokens, unroll=unroll)
        return last, (y, state)

    state, (y, kept) = jax.lax.scan(chunk, state, _chunks(given))
    return Results(_joined(y, given), state, jnp.moveaxis(kept, 0, 1))


def backward(
    given: Given,
    kept: Float[Array, "b c n d"],
    grads: tuple[Float[Array, "b t d"], Float[Array, "b n d"]],
    *,
    unroll: int = UNROLL,
) -> Given:
    """As `reference.backward`."""
    a = _wide(given.a)

    def chunk(carry: tuple[Array, Array], now: Any) -> tuple[tuple[Array, Array], Any]:
        tokens, state = now

        def again(state: Array, now: _Tokens) -> tuple[Array, Array]:
            decay, more = _step(a, now)
            return decay * state + more, state

        def one(carry: tuple[Array, Array], now: Any) -> tuple[tuple[Array, Array], Any]:
            (d_state, d_a), (now, before) = carry, now
            decay, more = _step(a, now)
            d_state = d_state + now.out[:, :, None] * now.grad[:, None, :]
            d_out = jnp.sum((decay * before + more) * now.grad[:, None, :], axis=2)
            d_into = jnp.sum(d_state * (now.delta * now.x)[:, None, :], axis=2)
            d_input = jnp.sum(d_state * now.into[:, :, None], axis=1)
            d_state = d_state * decay
            d_decay = d_state * before
            d_a = d_a + d_decay * now.delta[:, None, :]
            d_delta = d_input * now.x + jnp.sum(d_decay * a, axis=1)
            return (d_state, d_a), (d_input * now.delta, d_delta, d_into, d_out)

        _, before = jax.lax.scan(again, state, tokens, unroll=unroll)
        return jax.lax.scan(one, carry, (tokens, before), reverse=True, unroll=unroll)

    tokens = _chunks(given, grads[0])
    carry = _wide(grads[1]), jnp.zeros(kept[:, 0].shape, kept.dtype)
    (d_state, d_a), found = jax.lax.scan(
        chunk, carry, (tokens, jnp.moveaxis(kept, 1, 0)), reverse=True
    )
    floats = given._replace(marks=None)
    d_x, d_delta, d_into, d_out = (_joined(d, given) for d in found)
    wide = clean(Given(d_x, d_delta, jnp.sum(d_a, 0), d_into, d_out, given.marks, d_state))
    return jax.tree.map(lambda d, v: d.astype(v.dtype), wide._replace(marks=None), floats)


def _step(a: Array, now: _Tokens) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
    """The decay of the state by one token, and what is added."""
    decay = jnp.exp(now.delta[:, None, :] * a)
    if now.forgets is not None:
        decay = jnp.where(now.forgets[:, None, None], 0, decay)
    return decay, (now.delta * now.x)[:, None, :] * now.into[:, :, None]


def _chunks(given: Given, grad: Array | None = None) -> _Tokens:
    """Tokens that are not there, and those that fill the last chunk, change nothing."""
    if given.marks is not None and grad is not None:
        grad = jnp.where((given.marks != ABSENT)[..., None], grad, 0)
    forgets = None if given.marks is None else given.marks == RESET
    given = clean(given)
    length = min(CHUNK, given.x.shape[1])

    def cut(array: Array) -> Array:
        array = array if array.dtype == bool else _wide(array)
        short = -array.shape[1] % length
        array = jnp.pad(array, ((0, 0), (0, short), *[(0, 0)] * (array.ndim - 2)))
        return jnp.moveaxis(array.reshape(len(array), -1, length, *array.shape[2:]), 0, 2)

    tokens = _Tokens(given.x, given.delta, given.into, given.out, forgets, grad)
    return jax.tree.map(cut, tokens)


def _joined(chunks: Array, given: Given) -> Array:
    """`[c, t, b, ...]` as `[b, t, ...]`."""
    whole = jnp.moveaxis(chunks, 2, 0)
    return whole.reshape(len(whole), -1, *whole.shape[3:])[:, : given.x.shape[1]]


def _wide(array: Array) -> Array:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
